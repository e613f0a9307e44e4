"""What a note means for continuity: the same to the recorder, which has just written it, and to who reads it later."""

from collector_trio.continuity.fold import Continuity
from collector_trio.journal.records import Letter, Note


def take_note(continuity: Continuity, note: Note) -> None:
    """Tell `continuity` what happened."""
    value = note.value
    if note.letter is Letter.TICK:
        continuity.tick(note.ns)
    elif note.letter is Letter.ENDED:
        continuity.session_ended(value["session"], value["reason"], value["detail"])
    elif note.letter is Letter.PROCESS and "again" not in value:
        if value["event"] == "start":
            continuity.process_started()
        else:
            continuity.process_stopped()
    elif note.letter is Letter.VERDICT and value["verdict"] == "unreadable":
        continuity.unreadable((value["exchange"], value["market"], value["native_symbol"]))
    elif note.letter is Letter.VERDICT and value["verdict"] == "maintenance":
        continuity.maintained(value["exchange"], value["notice"])
    elif note.letter is Letter.REFUSAL:
        continuity.refused(value["since_ns"], value["until_ns"])
