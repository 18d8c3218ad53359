"""Names of folders with the characters that mean something in URLs, shells or patterns."""

COMBINED = "a b#1%20?x=ü&;'"
NAMES = (
    COMBINED,
    "team#1",
    "pct%20x",
    "100%",
    "a%2Fb%00",
    "q?x=1",
    "?",
    "a+b=c&d;e",
    "'quoted' \"twice\"",
    "[x]{y}*",
    "a@b:c",
    "back\\slash",
    "ü 币安",
    "two\nlines",
    "trailing ",
)
