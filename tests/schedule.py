"""Which tests run beside which, where several workers share them."""

from xdist.scheduler import LoadScopeScheduling

# Those that start processes of their own and tell time: of each group one at a time, however many workers there are.
ONE_AT_A_TIME = {
    "tests/stories/test_crash": "storms",
    "tests/stories/": "stories",
    "tests/benchmarks/": "storms",
}


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """A file's tests stay on one worker, so that what they share is made once; files with many tests go first."""

    def _split_scope(self, nodeid: str) -> str:
        groups = (group for start, group in ONE_AT_A_TIME.items() if nodeid.startswith(start))
        return next(groups, nodeid.partition("::")[0])
