"""Labels from the comments of WFDB headers.

#Dx: 426783006,164889003     SNOMED CT codes (PhysioNet/CinC Challenges 2020 and 2021)
#Dx: AF,RBBB                 the nine classes of CPSC 2018, as its first release has them
# Chagas label: True         any other comment, by its name: a word for yes or no, or the names of diagnoses
#<diagnoses>:                a heading (LUDB), with a diagnosis on every line until the next heading
"""

import re
from collections import Counter
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.base.tables import NO_VALUE
from lamae.base.text import few
from lamae.evaluate.labels.codes import CodeLists, choose_vocabulary
from lamae.evaluate.labels.csvrows import items, shortened
from lamae.evaluate.labels.snomed import CODE, CPSC, NAMES, ToSnomed
from lamae.evaluate.labels.store import LabelTable
from lamae.evaluate.labels.textlabels import SEPARATORS, read_texts
from lamae.sharding.files import HEADER_SUFFIX, open_files
from lamae.sharding.keys import keys_of
from lamae.sharding.reading import RejectError, read_header
from lamae.sharding.sources import list_source

DIAGNOSES = "Dx"
_HEADING = re.compile(r"<[^>]*>")


def read_headers(
    folder: Path,
    *,
    label_column: str | None = None,
    separator: str = SEPARATORS,
    merge: bool = True,
    min_count: int = 1,
    top: int | None = None,
) -> LabelTable:
    """Labels from the comments of all WFDB headers below ``folder``, a directory or a zip.

    Without ``label_column`` SNOMED CT codes of ``#Dx:``, or the names that CPSC 2018 gives its classes, and ``merge``
    takes codes that the Challenge scores as one for one. With it, what the comment of that name says, read as
    ``read_texts`` does. A record without the comment is unlabelled. Raises UsageError where there is no such comment,
    or a code is none, LamaeError where reading fails in a way that may pass.
    """
    if not folder.exists():
        raise UsageError(f"{folder}: no directory with WFDB headers (*.hea), nor a zip of one, is there")
    files = open_files(folder)
    entries = list_source(files, kind="wfdb").entries
    wanted, seen = (label_column or DIAGNOSES), Counter[str]()
    found: list[list[tuple[str, str]]] = []
    unreadable: list[str] = []
    for entry in entries:
        path = files.base + entry.path + HEADER_SUFFIX
        try:
            text = read_header(files, entry.path).decode("utf-8", errors="replace")
        except RejectError as error:  # packing has left this record out, too
            unreadable.append(f"{path} ({error.detail})")
            text = ""
        comments = _comments(text)
        seen.update({name for _, name, _ in comments})
        found.append([(f"{folder / path}, line {n}", text) for n, name, text in comments if _same(name, wanted)])
    if not any(found):
        raise UsageError(
            f"{folder}: no header has a comment {wanted}; name another with --label-column (there: "
            f"{few([name for name, _ in seen.most_common()]) or 'none'})"
        )
    notes = [f"unreadable headers, taken as unlabelled: {few(unreadable)}"] if unreadable else []
    if label_column is None:
        codes = _snomed_codes(folder, found, merge, notes)
        protocol = "SNOMED CT codes of #Dx headers" + (", equivalent codes merged" if merge else "")
    else:
        codes = read_texts(found, wanted, separator, notes)
        protocol = f"comments {wanted} of headers"
    return LabelTable(
        key_choices=_key_choices([entry.key for entry in entries], [entry.path for entry in entries]),
        places=[entry.path + HEADER_SUFFIX for entry in entries],
        codes=codes,
        vocabulary=choose_vocabulary(codes.counts(), min_count=min_count, top=top),
        descriptions=NAMES if label_column is None else {},
        protocol=f"{protocol}, at least {min_count} records; protocol shards",
        notes=notes,
    )


def _comments(header: str) -> list[tuple[int, str, str]]:
    """(line number, name, value) of a header's comments; those below a heading such as <diagnoses>: are its values."""
    found, heading = [], ""
    for number, line in enumerate(header.splitlines(), start=1):
        if not line.startswith("#"):
            continue
        text = line.lstrip("# \t").strip()
        name, colon, value = (part.strip() for part in text.partition(":"))
        if _HEADING.fullmatch(name):
            name = name[1:-1]
            heading = "" if value else name
        elif heading:
            found.append((number, heading, text))
        if colon:
            found.append((number, name, value))
    return found


def _same(name: str, wanted: str) -> bool:
    return name.casefold() == wanted.strip("# :<>").casefold()


def _snomed_codes(folder: Path, found: list[list[tuple[str, str]]], merge: bool, notes: list[str]) -> CodeLists:
    codes, to_snomed, num_named = CodeLists(), ToSnomed(CPSC, merge=merge), 0
    for comments in found:
        record: set[str] = set()
        for where, text in comments:
            for code in items(text, DIAGNOSES, where) if text.casefold() not in NO_VALUE else ():
                if code not in CPSC and not CODE.fullmatch(code):
                    raise UsageError(
                        f"{where}: {DIAGNOSES} is {shortened(text)}, and {code!r} is no SNOMED CT code; words are read "
                        f"with --label-column {DIAGNOSES}"
                    )
                record.add(code)
        num_named += not CPSC.keys().isdisjoint(record)
        codes.append(to_snomed(record) or None)
    if num_named:
        notes.append(f"names of CPSC 2018's classes count as their codes in the Challenges: {num_named:,} records")
    notes += to_snomed.notes(folder)
    return codes


def _key_choices(keys: list[str], paths: list[str]) -> list[list[str]]:
    """Keys that a shard set made of these headers gives them; then those of a set made of folders below or around."""
    choices, parts = [keys], [path.split("/") for path in paths]
    for depth in range(max(map(len, parts)), 0, -1):
        choices.append([keys_of(["__".join(words[-depth:])])[0] for words in parts])
    return choices
