"""`make bench`: every part in turn, each in a process of its own; what misses its target fails the whole once all has been printed."""

import subprocess
import sys

PARTS = (
    "bench_sweep",
    "bench_visits",
    "bench_graphs",
    "bench_admission",
    "bench_api",
    "bench_home",
    "bench_weight",
    "bench",
)


def main() -> None:
    missed = []
    for part in PARTS:
        print(f"== {part}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.lab.{part}"], check=False).returncode:
            missed.append(part)
    if missed:
        sys.exit(f"targets were missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
