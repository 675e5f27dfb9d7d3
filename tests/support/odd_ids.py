"""Ids that are allowed and unusual, and ids that are refused."""

ODD_IDS = (
    "\U0001f980" * 63 + "abc",  # 255 bytes of four-byte characters
    "x" * 255,
    '"' * 255,
    "{",
    "}",
    "{}",
    "}{tag}",
    "{tag}",
    "%7D",
    "%",
    "%20",
    "%2520",
    "a b",
    "a%20b",
    "a  b c",
    "/",
    "..",
    ".",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "'; drop table events; --",
    "*",
    "acme",
    "s/acme}c",
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}",
    "\u202etxt.exe",  # right-to-left override
    "e\u0301",  # NFD
    "\u00e9",  # NFC
    "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}",
    "a\u2028b",  # line separator
    "\ufeffx",  # byte order mark
    "\U0010ffff",
    "\uffff",
    "\ue000",
    "Z",
    "a",
    "a\u3000b",
    "名",
    "!x",
)

BAD_IDS = (
    "",
    "\U0001f980" * 64,  # 256 bytes
    "x" * 256,
    "x" * 100_000,
    " a",
    "a ",
    "\u3000a",
    "a\u00a0",
    "a\u2028",
    "\u2029a",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "a\x7f",
    "a\x85b",
    "\x9fa",
)
