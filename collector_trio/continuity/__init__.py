"""What follows what, and what is missing: pure, and the same for the recorder, which asks for what it lacks, and for
the follower, whose verdict is in the tables.

- `coverage`: trades have numbers without holes; what is above the mark is new, what fills a hole is new, all else was
  seen.
- `chain`: changes of a book link the last one to themselves; a link that fits nowhere breaks the book.
- `tracks`: both, for one instrument, with the sessions that feed it: a hole that another session may still fill is
  pending, and what becomes of it is a change in the gap ledger.
- `fold`: all instruments, fed with what a journal's records say.
- `book`: the levels behind a chain's links.
"""
