"""Lightning trains the joint process of the README in mixed precision, and samples from it."""

import warnings

import pytest
import torch
from torch import nn

import bridges as br
from bridges.convert import bcd_to_rotmat

lightning = pytest.importorskip("lightning")

PROCESS = br.Joint(
    pos=br.OrnsteinUhlenbeckDiffusion(mean=0.0),
    rot=br.RotationDiffusion(rate=1.0),
    seq=br.UniformDiscreteDiffusion(rate=1.0, k=20),
)
B, L = 16, 6


def data(n, generator):
    """Chains whose positions, frames and types all follow from one number."""
    along = torch.linspace(-1, 1, L).expand(n, L)
    turn = torch.zeros(n, L, 3)
    turn[..., 2] = along
    pos = torch.stack((along, along**2, 0 * along), -1)
    pos = pos + 0.1 * torch.randn(n, L, 3, generator=generator)
    return {
        "pos": pos,
        "rot": bcd_to_rotmat(turn),
        "seq": torch.arange(L).expand(n, L),
    }


class Model(lightning.LightningModule):
    """Everything goes in flat, and comes out as points and logits."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.net = nn.Sequential(
            nn.Linear(L * (3 + 9 + 8) + 1, 128), nn.SiLU(), nn.Linear(128, L * (3 + 9 + 20))
        )
        self.losses, self.dtypes, self.generator = [], set(), torch.Generator().manual_seed(0)

    def forward(self, x_t, t):
        self.dtypes.add(t.dtype)
        parts = (x_t["pos"].flatten(1), x_t["rot"].flatten(1), self.embed(x_t["seq"]).flatten(1))
        h = self.net(torch.cat((*parts, t.unsqueeze(-1)), -1))
        assert h.dtype == torch.bfloat16
        pos, rot, seq = h.split((L * 3, L * 9, L * 20), -1)
        eye = torch.eye(3).expand(len(h), L, 3, 3)
        return {
            "pos": pos.reshape(-1, L, 3),
            "rot": eye + rot.reshape(-1, L, 3, 3),
            "seq": seq.reshape(-1, L, 20),
        }

    def training_step(self, batch, index):
        x_0 = data(B, self.generator)
        t = 3 * torch.rand(B, generator=self.generator)
        x_t = PROCESS.sample_forward(x_0, t, generator=self.generator)
        assert x_t["rot"].dtype == torch.float32
        loss = br.standardloss(PROCESS, t, self(x_t, t), x_0)
        assert loss.total.dtype == torch.float32
        self.losses.append(loss.total.item())
        return loss.total

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


def test_mixed_precision_trains_the_joint_process(tmp_path):
    torch.manual_seed(0)
    model = Model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            precision="bf16-mixed",
            accelerator="cpu",
            max_steps=150,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, torch.utils.data.DataLoader(range(150), batch_size=1))
    first, last = (sum(part) / 20 for part in (model.losses[:20], model.losses[-20:]))
    assert last < 0.6 * first
    assert model.dtypes == {torch.float32}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())

    shape = {"pos": (4, L, 3), "rot": (4, L), "seq": (4, L)}
    draws = torch.Generator().manual_seed(1)
    x = PROCESS.sample_prior(shape, generator=draws)
    with torch.autocast("cpu", torch.bfloat16):
        new = br.sample_backward(model, PROCESS, torch.linspace(0, 3, 20), x, generator=draws)
    PROCESS._check_clean(new, "the sample")
    assert new["pos"].dtype == new["rot"].dtype == torch.float32
    assert (new["seq"] == torch.arange(L)).double().mean() > 0.8
