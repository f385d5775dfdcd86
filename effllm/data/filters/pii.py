"""Masks what identifies a person: mail addresses, public IP addresses, telephone and card numbers."""

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass

from effllm.data.filters.base import KEEP, Filter, Verdict

_FOUND = re.compile(r"""
    (?P<email>[\w.!#$%&'*+/=?^`{|}~-]{1,64}+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+)
  | (?<![\w.:])(?P<ip>(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)
  | (?<![\w.+-])(?P<card>\d(?:[ -]?\d){12,18})(?![\w-]|\.\d)
  | (?<![\w.+-])(?P<phone>\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,12}|\(\d{3}\)[ ]?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)
""", re.VERBOSE | re.ASCII)


@dataclass(frozen=True)
class PII(Filter):
    """Replaces e-mail addresses, public IPv4 and IPv6 addresses, card numbers (13–19 digits with a Luhn sum of 0) and telephone numbers.

    Each becomes its `mask` with {} replaced by EMAIL, IP, CARD or PHONE. Private and reserved IP addresses stay, as in FineWeb (arXiv
    2406.17557, §3.1). An IPv6 address needs three colons, so that C++ names stay. A text with more than max_found is dropped (reason:
    many); by default none is. Telephone numbers are recognised as +CC… and in the North American forms, so that dates and version numbers
    stay. Of a mail address the last 64 characters before the @ are looked at (RFC 5321 allows no more), so that time is linear in the text.
    Raises ValueError for a mask with other braces.
    """

    mask: str = "<{}>"
    max_found: int | None = None

    def __post_init__(self):
        try:
            self.mask.format("EMAIL")
        except (LookupError, ValueError) as error:
            raise ValueError(f"PII mask={self.mask!r}: of braces it takes only {{}}, where the kind goes") from error

    def __call__(self, text):
        return self.judge(text)[0]

    def judge(self, text):
        masked, found = mask(text, self.mask)
        if self.max_found is not None and sum(found.values()) > self.max_found:
            return Verdict(False, "many"), text
        return KEEP, masked


def mask(text: str, shape: str = "<{}>") -> tuple[str, Counter]:
    """(the masked text, how many of each kind were found)."""
    found: Counter = Counter()

    def replace(match: re.Match) -> str:
        kind = match.lastgroup
        if kind == "ip" and not _public(match[0]) or kind == "card" and not _luhn(match[0]):
            return match[0]
        found[kind] += 1
        return shape.format(kind.upper())

    return _FOUND.sub(replace, text), found


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _luhn(number: str) -> bool:
    """Whether Σ of digits, every second from the right doubled and its digits added, is a multiple of ten (ISO/IEC 7812-1)."""
    digits = [int(c) for c in number if c.isdigit()][::-1]
    return not sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10
