"""`gpt doctor`: what usually fails, looked at before it does."""
