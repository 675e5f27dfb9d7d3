"""The commands of `sessiond`, one module each, loaded when asked for."""
