"""Windows of tokens that two streams share, against a set of tuples in plain Python."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.auditing import windows
from hybrid.data.shards import Stream
from hybrid.data.write_shards import write_shard

BOS = 1
tokens = st.lists(st.sampled_from([BOS, 2, 3]), min_size=1, max_size=60)


def stream(path: Path, values: list[int]) -> Stream:
    write_shard(path, np.array(values, np.uint16))
    return Stream([path])


def oracle(values: list[int], size: int) -> list[tuple[int, ...]]:
    found = [tuple(values[at : at + size]) for at in range(len(values) - size + 1)]
    return [window for window in found if BOS not in window[1:]]


@given(train=tokens, val=tokens, size=st.integers(1, 9))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_shared_is_what_sets_of_tuples_share(train: list[int], val: list[int], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BLOCK", 7)  # windows reach over the ends of blocks
    found = windows.shared_windows(stream(tmp_path / "t.bin", train), stream(tmp_path / "v.bin", val), BOS, size)
    known, mine = set(oracle(train, size)), oracle(val, size)
    assert (found.windows, found.of_windows) == (sum(window in known for window in mine), len(mine))
    covered = [
        any(tuple(val[a : a + size]) in known and BOS not in val[a + 1 : a + size] and a + size <= len(val) for a in range(max(0, at - size + 1), at + 1))
        for at in range(len(val))
    ]
    assert (found.tokens, found.of_tokens) == (sum(covered), len(val))


def test_windows_that_differ_in_one_token_or_in_their_order_have_other_hashes() -> None:
    draw = np.random.default_rng(0)
    base = draw.integers(0, 1000, 50).astype(np.uint16)
    seen = {int(windows.window_hashes(base, 50)[0])}
    for at in range(50):
        other = base.copy()
        other[at] += 1
        swapped = np.roll(base, at + 1) if at < 49 else base[::-1]
        seen |= {int(windows.window_hashes(other, 50)[0]), int(windows.window_hashes(swapped, 50)[0])}
    assert len(seen) == 101


def test_documents_are_counted_that_are_covered_a_little_and_for_more_than_half(tmp_path: Path) -> None:
    text = list(range(2, 42))
    train = stream(tmp_path / "t.bin", [BOS, *text])
    val = stream(tmp_path / "v.bin", [BOS, *text[:30], BOS, *text[:10], *range(100, 130), BOS, *range(200, 240)])
    found = windows.shared_windows(train, val, BOS, 8)
    assert (found.documents, found.mostly, found.of_documents) == (2, 1, 3)
