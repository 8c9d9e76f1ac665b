"""Parts of the network beside the plain way to the same result.

Shapes: U users, N rows, B rows of a look-up, C categorical features, E embedding width, T tasks, K surfaces.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.scoring_run.model import CANDIDATE, SPEC, SURFACE, TRUNK, USER, World, a_batch, a_request
from benchmarks.scoring_run.pairs import Comparison
from model_runtime.batching import ROW_FIELDS, USER_FIELDS, join, one_user_each, user_digests
from model_runtime.networks.attention import CandidateAttention, HistoryMemory
from model_runtime.networks.embeddings import FusedEmbedding
from model_runtime.networks.engagement import RowTensors, to_tensors
from model_runtime.networks.features import RowBatch

ROWS = 1_024
CANDIDATES = 512  # of one request
REQUEST_ROWS = 16  # of one small request
SHORT = 1 / 8  # of the longest history


def fused_embedding() -> Comparison:
    """26 features, each with one value a row."""
    sizes = tuple(size for _, size in (*USER, *CANDIDATE))
    fused = FusedEmbedding(sizes, TRUNK.embedding)
    ends = np.cumsum(sizes).tolist()
    bags = [
        nn.EmbeddingBag.from_pretrained(fused.table[start:end].detach().clone(), mode="sum")
        for start, end in zip(fused.starts, ends, strict=True)
    ]
    batch = a_batch(users=ROWS, rows=ROWS)
    index_BC = torch.from_numpy(np.hstack((batch.user_categorical_UC, batch.candidate_categorical_NC)))
    offset_B = torch.arange(ROWS)

    def one_table_each() -> Tensor:
        return torch.cat([bag(index_BC[:, place], offset_B) for place, bag in enumerate(bags)], dim=1)

    return Comparison(
        figure="fused_embedding_ratio",
        what=f"embed {ROWS} rows of 26 features, over 26 EmbeddingBags",
        plain=_inferring(one_table_each),
        ours=_inferring(lambda: fused(index_BC, first=0).flatten(1)),
    )


def user_encoder(world: World, *, users: int, figure: str) -> Comparison:
    """1024 rows, each with its user's features, that came with small requests: told apart, encoded, broadcast."""
    version, few = world.stable, a_batch(users=users, rows=ROWS)
    rows = one_user_each(few, np.random.default_rng(0).permutation(ROWS))
    requests = [_cut(rows, slice(start, start + REQUEST_ROWS)) for start in range(0, ROWS, REQUEST_ROWS)]

    def encode(batch: RowBatch) -> Tensor:
        return version.encode_users(_tensors(batch)).user_UY

    def deduplicated() -> Tensor:
        joined = join(requests, [user_digests(request) for request in requests])
        return encode(joined.batch).index_select(0, torch.from_numpy(joined.batch.user_index_N))

    return Comparison(
        figure=figure,
        what=f"encode the users of {ROWS} rows, {users} of them different, over row by row",
        plain=_inferring(lambda: encode(rows)),
        ours=_inferring(deduplicated),
    )


def routed_towers(world: World) -> Comparison:
    """The request's own surface's gates, towers and heads, over those of all surfaces and the choice among them."""
    shared, rows = world.stable.activations(a_request(CANDIDATES))
    own, surfaces = world.network.head_of(SURFACE), SPEC.surfaces
    heads = [world.network.head_of(surface) for surface in surfaces]
    surface_N, place_N = torch.full((CANDIDATES,), surfaces.index(SURFACE)), torch.arange(CANDIDATES)

    def all_towers() -> Tensor:
        logit_KNT = torch.stack([head(shared, rows.own) for head in heads])
        return logit_KNT[surface_N, place_N]

    return Comparison(
        figure="routed_towers_ratio",
        what=f"towers of {CANDIDATES} candidates, over those of all {len(surfaces)} surfaces",
        plain=_inferring(all_towers),
        ours=_inferring(lambda: own(shared, rows.own)),
    )


def grouped_attention(
    world: World, *, users: int, figure: str, rows: int = ROWS, shortest: float = 0.5, longest: float = 1.0
) -> Comparison:
    """Candidates' attention over their user's history, over keys and values copied to every row."""
    attention = world.stable.trunk.attention
    assert attention is not None
    batch = _tensors(a_batch(users=users, rows=rows, shortest=shortest, longest=longest))
    with torch.inference_mode():
        memory = world.stable.encode_users(batch).memory
        candidate_NX = world.stable.trunk.embedding(
            batch.candidate_categorical_NC, first=world.stable.trunk.first_candidate
        ).flatten(1)
    assert memory is not None
    places = memory.is_seen_UP.shape[1]
    return Comparison(
        figure=figure,
        what=f"attention of {rows} rows of {users} users, {places - 1} entries, over copied keys and values",
        plain=_inferring(lambda: _broadcast(attention, candidate_NX, memory, batch.user_index_N)),
        ours=_inferring(lambda: attention(candidate_NX, memory, batch.user_index_N)),
    )


def _broadcast(
    attention: CandidateAttention, candidate_NX: Tensor, memory: HistoryMemory, user_index_N: Tensor
) -> Tensor:
    query_ND, rows = attention.query(candidate_NX), len(candidate_NX)
    if len(memory.is_seen_UP) < rows:  # else each row has its own already
        memory = HistoryMemory(*(each.index_select(0, user_index_N) for each in memory))
    key_value = memory.key_value_UPK.view(*memory.is_seen_UP.shape, 2, attention.num_heads, -1)
    key_NAPD, value_NAPD = key_value.permute(2, 0, 3, 1, 4)
    query_NA1D = query_ND.view(rows, attention.num_heads, 1, -1)
    seen_NA1D = functional.scaled_dot_product_attention(
        query_NA1D, key_NAPD, value_NAPD, attn_mask=memory.is_seen_UP[:, None, None, :]
    )
    return seen_NA1D.flatten(1)


def _tensors(batch: RowBatch) -> RowTensors:
    return to_tensors(SPEC, SURFACE, batch, device="cpu")


def _cut(batch: RowBatch, part: slice) -> RowBatch:
    """Some of the rows of a batch that has as many users."""
    fields = {name: getattr(batch, name)[part] for name in (*USER_FIELDS, *ROW_FIELDS)}
    return RowBatch(**{**fields, "user_index_N": np.arange(part.stop - part.start)})


def _inferring(side: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def inferred() -> Tensor:
        with torch.inference_mode():
            return side()

    return inferred
