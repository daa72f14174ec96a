"""One spelling of an address: how two spellings are known to be one person's, and what is hashed.

What belongs here: normalising e-mail addresses and phone numbers, and their SHA-256 for audiences
of advertisers. What does not: whose they are. No import beyond the standard library.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

Field = Literal["email", "phone"]


def normalise(field: Field, address: str) -> str:
    """An e-mail address without blanks and in lower case; a phone number as + and digits.

    A number that begins with 00 is international; without either it is taken as it is, digits only:
    no country is guessed. Text without any address is empty.
    """
    text = unicodedata.normalize("NFKC", address).strip()
    if field == "email":
        return text.casefold()
    digits = "".join(character for character in text if character in "0123456789")
    if text.startswith("+"):
        return f"+{digits}" if digits else ""
    return f"+{digits[2:]}" if digits.startswith("00") else digits


def hashed(field: Field, address: str) -> str:
    """SHA-256 of the normalised address in hex, as advertisers match it; empty where there is none.

    Their tools take phone numbers in E.164 (+, country, number): without its country one has none.
    """
    text = normalise(field, address)
    if not text or (field == "phone" and not text.startswith("+")):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()
