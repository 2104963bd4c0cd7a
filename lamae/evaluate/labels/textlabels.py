"""Labels that are words: a class per record, several names in one cell, or yes and no."""

from collections import defaultdict
from collections.abc import Iterable

from lamae.base.tables import NO_VALUE
from lamae.evaluate.labels.codes import CodeLists
from lamae.evaluate.labels.csvrows import BINARY, text_items

SEPARATORS = ";|"


def read_texts(records: Iterable[list[tuple[str, str]]], name: str, separators: str, notes: list[str]) -> CodeLists:
    """Codes of each record from its texts, each with the place it is from, for errors.

    Where all texts say yes or no (true, 1), the only code is ``name``. A record without any text is unlabelled.
    """
    texts = [[(where, text) for where, text in record if text.casefold() not in NO_VALUE] for record in records]
    if all(text.casefold() in BINARY for record in texts for _, text in record):
        return CodeLists(
            {name} if any(BINARY[text.casefold()] for _, text in record) else set() if record else None
            for record in texts
        )
    codes = CodeLists()
    for record in texts:
        words = {word for where, text in record for word in text_items(text, name, where, separators)}
        codes.append({word for word in words if word.casefold() not in NO_VALUE} or None)
    alike: dict[str, list[str]] = defaultdict(list)
    for code, _ in codes.counts():
        alike[code.casefold()].append(code)
    notes += [
        f"{' and '.join(spellings)} differ in upper and lower case alone, and are codes of their own"
        for spellings in alike.values()
        if len(spellings) > 1
    ]
    return codes
