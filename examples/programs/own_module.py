"""A torch module of your own as a model version: train it as you like, and let Surefoot roll it out.

    python -m model_runtime export-program --module examples/programs/own_module.py:make \
        --data logs --surface home_feed --calibration platt --out exports/own
    surefoot register exports/own/home_feed

`logs` is a folder of impressions, see docs/your-own-logs.md; DATA names another one. Your code runs here alone, in
your own process: what is registered holds names of ATen's operators and numbers.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from model_runtime.training.data import read_examples

STEPS, ROWS = 300, 512
TASKS = ("click", "good_click", "hide")


class Affinities(nn.Module):
    """A factorisation machine over a user's categories, a candidate's, and the numbers beside them.

    Arguments are named as the fields of a `RowBatch`: of users (U), each once in a batch, and of candidate rows (N).
    Row n belongs to user `user_index_N[n]`.
    """

    def __init__(self, user_sizes: list[int], candidate_sizes: list[int], num_dense: int, width: int = 8) -> None:
        super().__init__()
        self.users = nn.ModuleList(nn.Embedding(size, width) for size in user_sizes)
        self.candidates = nn.ModuleList(nn.Embedding(size, width) for size in candidate_sizes)
        self.heads = nn.Linear(3 * width + num_dense, len(TASKS))

    def forward(
        self,
        user_categorical_UC: Tensor,
        user_index_N: Tensor,
        candidate_categorical_NC: Tensor,
        candidate_dense_ND: Tensor,
    ) -> dict[str, Tensor]:
        """Logits by task, each of shape (N,)."""
        user_UE = sum(each(user_categorical_UC[:, c]) for c, each in enumerate(self.users))
        row_NE = sum(each(candidate_categorical_NC[:, c]) for c, each in enumerate(self.candidates))
        of_row_NE = user_UE[user_index_N]  # the user's part was computed once, however many candidates there are
        parts = (of_row_NE, row_NE, of_row_NE * row_NE, candidate_dense_ND.sign() * candidate_dense_ND.abs().log1p())
        return dict(zip(TASKS, self.heads(torch.cat(parts, dim=1)).unbind(dim=1), strict=True))


def make() -> nn.Module:
    """What `--module` calls: it trains for some seconds on home_feed's first rows and returns the module."""
    examples = read_examples(Path(os.environ.get("DATA", "logs")), surfaces=["home_feed"])
    spec, draw = examples.spec, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    users, candidates = ([size for _, size in each] for each in (spec.user_categorical, spec.candidate_categorical))
    module = Affinities(users, candidates, len(spec.candidate_dense))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(STEPS):
        batch = examples.batch(row_M := torch.randint(examples.num_rows * 8 // 10, (ROWS,), generator=draw).numpy())
        fields = ("user_categorical_UC", "user_index_N", "candidate_categorical_NC", "candidate_dense_ND")
        logits = module(*(torch.from_numpy(getattr(batch, name)) for name in fields))
        label_NT = torch.from_numpy(examples.label_NT[row_M])
        logit_NT = torch.stack([logits[task] for task in TASKS], dim=1)
        loss_NT = nn.functional.binary_cross_entropy_with_logits(logit_NT, label_NT.nan_to_num(), reduction="none")
        optimizer.zero_grad()
        loss_NT[~label_NT.isnan()].mean().backward()
        optimizer.step()
    return module
