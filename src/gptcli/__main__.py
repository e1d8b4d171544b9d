"""`python -m gptcli` is `gpt`; the ranks of a run of many processes are started so."""

from gptcli.cli.main import main

if __name__ == "__main__":
    main()
