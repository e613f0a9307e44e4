"""How often Python looks for garbage that only a search finds: a search of everything stops whatever runs."""

import gc

COLLECT_AFTER = 20_000  # objects


def spare_collections() -> None:
    """Let this process look for cycles of objects seldom, and never among those that are there now.

    To be called once, when everything is imported: those are tens of thousands of objects, and none of them goes. Rows
    on their way are very many objects and no cycles; looking at all there is took as long as thousands of rows.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
