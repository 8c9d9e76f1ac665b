"""What texts in requests look like, as a pattern for programs and in words for people."""

NAME = r"^[a-z][a-z0-9_]{0,62}$"
VERSION_ID = r"^[0-9a-f]{16}$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
RUNTIME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
NO_NUL = r"^[^\x00]*$"
SOME_NO_NUL = r"^[^\x00]+$"
NOT_BLANK = r"^[^\x00]*[^\x00\s][^\x00]*$"
SPLITS_MODE = r"^[a-z_]{0,40}$"

IN_WORDS = {
    NAME: "must be lower-case letters, digits and '_', a letter first, at most 63",
    VERSION_ID: "must be a version id: 16 hex digits",
    DIGEST: "must be 'sha256:' and 64 hex digits",
    RUNTIME: "must be letters, digits, '.', '_', ':' and '-', at most 128",
    NO_NUL: "must not hold a zero byte",
    SOME_NO_NUL: "must not be empty or hold a zero byte",
    NOT_BLANK: "must say something, and hold no zero byte",
    SPLITS_MODE: "must be lower-case letters and '_', at most 40",
}
