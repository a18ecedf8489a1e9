"""The examples that end each command's help."""


def examples(*lines: str) -> str:
    """Return the epilog of a command with `lines` as they are typed."""
    heading = "Examples:" if len(lines) > 1 else "Example:"
    return "\b\n" + "\n".join([heading, *(f"  {line}" for line in lines)])
