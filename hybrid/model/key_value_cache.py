"""The key/value cache: what a model keeps of the windows that it reads token by token.

Legend: S streams (one window each), B tokens of a stream that are read at once, P positions that they attend over, L window length,
E model width, K key/value heads, N head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hybrid.model.attention import window_of
from hybrid.settings.config import ModelConfig


@dataclass
class CachedPast:
    """The cache as one forward pass sees it (attention.Past): where its tokens stand, and what its layers have kept of the positions before them.

    where_B: positions of the tokens, int64.  views: of each layer the first position that it looks at, and (B, …) True from there on where a
    token does not see one, None: nowhere.  keys, values: (layers, S, K, P, N) float32.  last_token_S and last_x_SE: token and normed embedding
    at the position before the first, -1 and zero at the beginning of a window.  All but `where` and `views` are the cache's own memory."""

    where_B: Tensor
    views: list[tuple[int, Tensor | None]]
    keys: Tensor
    values: Tensor
    last_token_S: Tensor
    last_x_SE: Tensor

    def attend(self, layer: int, q_SBHN: Tensor, k_SBKN: Tensor, v_SBKN: Tensor) -> Tensor:
        """Stores the keys and values of a layer at the tokens' positions; attention over all that it has, (S, B, H, N)."""
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.where_B, k_SBKN.transpose(1, 2))
        values.index_copy_(2, self.where_B, v_SBKN.transpose(1, 2))
        first, unseen = self.views[layer]
        return attend_past(q_SBHN, keys[:, :, first:], values[:, :, first:], unseen)


def attend_past(q_BLHN: Tensor, k_BKPN: Tensor, v_BKPN: Tensor, unseen_LP: Tensor | None) -> Tensor:
    """Attention over the positions of a cache, which hold those of the queries too: (B, L, H, N).

    unseen_LP: True where a query does not see a position.  One softmax of two batched products, so that a window's result does not
    depend on the others', nor on what lies at unseen positions."""
    batch, length, heads, width = q_BLHN.shape
    kv_heads = k_BKPN.shape[1]
    grouped = q_BLHN.reshape(batch, length, kv_heads, -1, width).transpose(1, 2)  # (B, K, L, H/K, N)
    q_XYN = grouped.reshape(batch * kv_heads, -1, width)  # X = B·K, Y = L·H/K
    k_XPN, v_XPN = (m.flatten(0, 1) for m in (k_BKPN, v_BKPN))  # no copy
    scores = torch.bmm(k_XPN, q_XYN.transpose(1, 2)).transpose(1, 2)  # keys first: faster on a CPU
    scores *= width**-0.5
    if unseen_LP is not None:
        scores.masked_fill_(unseen_LP.repeat_interleave(heads // kv_heads, 0), -torch.inf)
    y_XYN = torch.bmm(torch.softmax(scores, dim=-1), v_XPN)
    return y_XYN.view(grouped.shape).transpose(1, 2).reshape(q_BLHN.shape)


class KeyValueCache:
    """Keys and values of S windows of up to L positions, all at the same position.

    A forward pass takes `past(B, P)` and is followed by `advance`.  Neither depends on the host's knowledge of the position, so both may be
    recorded in a CUDA graph, and all tensors stay where they are in memory."""

    def __init__(self, config: ModelConfig, streams: int, seq_len: int, device: torch.device) -> None:
        self._windows = [window_of(config, layer) for layer in range(config.layers)]
        shape = (config.layers, streams, config.kv_heads, seq_len, config.d_model // config.heads)
        self._keys, self._values = (torch.zeros(shape, device=device) for _ in range(2))
        self._places = torch.arange(seq_len, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._last_token = torch.full((streams,), -1, dtype=torch.int64, device=device)
        self._last_x = torch.zeros(streams, config.d_model, device=device)

    def restart(self) -> None:
        """Begins new windows.  Old keys and values stay in memory, at positions that are written again before they are seen."""
        self._at.zero_()
        self._last_token.fill_(-1)
        self._last_x.zero_()

    def past(self, block: int, span: int, slack: int) -> CachedPast:
        """The view of a forward pass over the next B = `block` tokens that attends over the positions 0 … P - 1, P = `span`.

        slack: the first of the tokens stands at P - slack or later; 1: it is alone and stands at P - 1."""
        where_B, views = self._at + self._places[:block], dict[int, tuple[int, Tensor | None]]()
        for window in set(self._windows):
            first = max(0, span - slack - window + 1) if window else 0
            places = self._places[first:span]
            unseen = places > where_B[:, None] if slack > 1 else None
            if window and unseen is not None:
                unseen |= places <= where_B[:, None] - window
            views[window] = first, unseen
        return CachedPast(
            where_B,
            [views[window] for window in self._windows],
            self._keys[:, :, :, :span],
            self._values[:, :, :, :span],
            self._last_token,
            self._last_x,
        )

    def advance(self, tokens_SB: Tensor) -> None:
        """Moves the position behind the tokens that a forward pass has read."""
        self._last_token.copy_(tokens_SB[:, -1])
        self._at += tokens_SB.shape[1]

    def moving(self) -> list[Tensor]:
        """What a forward pass changes other than keys and values: to be put back after one that was only a rehearsal."""
        return [self._at, self._last_token, self._last_x]
