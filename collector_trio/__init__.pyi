from collector_trio.followers.books import Book as Book
from collector_trio.followers.books import BookUnknown as BookUnknown
from collector_trio.followers.books import book_at as book_at
from collector_trio.followers.scan import scan as scan

__version__: str
