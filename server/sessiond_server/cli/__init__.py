"""The commands of `sessiond`, one module each, imported when the command is run."""
