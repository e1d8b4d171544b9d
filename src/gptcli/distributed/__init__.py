"""Who am I among the processes, how they are launched, and how the model is spread over them."""
