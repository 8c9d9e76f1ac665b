"""What the runtime makes of a GPU: kernel, precision profiles, graphs, whole requests. Needs no more than the runtime.

Without a GPU it says so and exits with 3; `--interpret` then checks the kernel's results on the CPU.
"""

import argparse
import os
import sys

NO_GPU = 3  # exit code; 1 is a figure below its bar, 2 wrong usage


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller tables")
    parser.add_argument("--interpret", action="store_true", help="parity alone, by Triton's interpreter on the CPU")
    parser.add_argument("--device", default="cuda:0")
    arguments = parser.parse_args()
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it as it is imported, and torch may import Triton
        from benchmarks.gpu_run.interpreted import run as interpret

        return interpret()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure here; --interpret checks the kernel on the CPU", file=sys.stderr)
        return NO_GPU
    from benchmarks.gpu_run.measured import run

    return run(arguments.device, is_quick=arguments.quick)


if __name__ == "__main__":
    sys.exit(main())
