"""Words that the reports of several commands share."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Write a number of things: 1 session, 2 sessions, 1,000 batches."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
