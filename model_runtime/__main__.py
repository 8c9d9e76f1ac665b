"""`python -m model_runtime COMMAND`; each command takes its own options."""

import sys
from collections.abc import Sequence

COMMANDS = "serve|open-bandit|generate|train|add-surface|recalibrate|export|report|export-program"
USAGE = f"usage: python -m model_runtime {COMMANDS} [options]; each answers --help"


def main(argv: Sequence[str]) -> int:
    match list(argv[:1]):
        case ["serve"]:
            from model_runtime import server  # nothing of training, whose needs a serving machine may not meet

            return server.main(argv[1:])
        case ["open-bandit" | "generate" | "train" | "add-surface" | "recalibrate" | "export" | "report"]:
            from model_runtime.training import cli  # nothing of serving

            return cli.main(list(argv))
        case ["export-program"]:
            from model_runtime.programs import cli as programs  # neither of training's commands nor of serving

            return programs.main(argv[1:])
        case ["-h" | "--help"]:
            print(USAGE)
            return 0
        case _:
            print(USAGE, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
