"""Lifted poses fitted to what they were lifted from: joints brought onto their rays, bones to one length a window.

A network answers both only roughly: its joints lie beside the places that it was shown, and its bones change their
length from frame to frame, most where they point at the camera. What it was shown says more: a ray for every joint,
and with the rays of a whole window how long a bone is; its depth then follows up to a sign, which the network knows.
How far either is trusted is learned, and falls with the score of the joints: a detector's places are not exact.
Knows the lifter's input channels (`service.engines.framing.window_channels`) and Human3.6M's joints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARENTS = (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
MIRRORED = (0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13)
MADE = (7, 9, 10)  # from the others, where the joints were not given: nobody saw them
# Half the longer side over the focal length: fields of view of 30, 45, 60, 75 and 90 degrees.
SLOPES = (0.268, 0.414, 0.577, 0.767, 1.0)
ROUNDS, STEPS = 2, 3  # of rays and lengths in turn; of Newton's in each
MOST_M = 0.15  # that a joint is moved sideways in a round: beyond that, the place was somebody else's
LEAST_M = 1e-3


class Fitting(nn.Module):
    """(batch, frames, 17, 3) metres and the channels they were lifted from (batch, frames, 17, 6) to the same, fitted.

    Poses come out relative to joint 0.
    """

    made: Tensor
    bones: Tensor
    chain: Tensor
    both_sides: Tensor
    slopes: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Logit of the way to its ray, of a joint of score 1: made from another skeleton's, or given.
        self.trust = nn.Parameter(torch.tensor([0.0, 3.0])[:, None].repeat(1, 17))
        self.doubt = nn.Parameter(torch.tensor([20.0, 40.0]))  # what scores take off it: the joint's own, the window's
        self.stiffness = nn.Parameter(torch.full((16,), 2.5))  # log of the variances, depth's over lengths'
        self.slack = nn.Parameter(torch.tensor([5.0, 5.0]))  # as `doubt`
        self.flatness = nn.Parameter(torch.tensor(6.0))  # bones that lie across the view tell their length best
        self.sharpness = nn.Parameter(torch.tensor(6.0))  # log of how surely the best field of view is taken, 1/m
        made, bones, chain, both = torch.zeros(17), torch.zeros(17, 16), torch.zeros(16, 17), torch.zeros(16, 16)
        made[list(MADE)] = 1
        for joint in range(1, 17):
            bone, parent = joint - 1, PARENTS[joint]
            bones[joint, bone] += 1
            bones[parent, bone] -= 1
            chain[:, joint] = chain[:, parent]
            chain[bone, joint] = 1
            both[bone, bone] += 0.5
            both[MIRRORED[joint] - 1, bone] += 0.5
        # Matrices instead of indices: a few of them cost less than gathering, and every runtime knows them.
        for name, matrix in {"made": made, "bones": bones, "chain": chain, "both_sides": both}.items():
            self.register_buffer(name, matrix, persistent=False)
        self.register_buffer("slopes", torch.tensor(SLOPES)[:, None, None], persistent=False)

    def forward(self, poses: Tensor, channels: Tensor) -> Tensor:
        x, y, z = (poses - poses[:, :, :1]).unbind(-1)  # (batch, frames, 17) each
        scores, given = channels[..., 2], channels[..., 5]
        seen = (scores >= 0).to(x.dtype) * (1 - self.made * (1 - given))
        lost = 1 - scores.clamp(0, 1) * seen
        lost_all = ((lost * seen).sum((1, 2)) / seen.sum((1, 2)).clamp(min=1))[:, None, None]
        trust = self.trust[0] + given * (self.trust[1] - self.trust[0])
        way = seen * torch.sigmoid(trust - self.doubt[0] * lost - self.doubt[1] * lost_all)
        weights = seen * (1.05 - lost)
        share = weights / weights.sum(-1, keepdim=True).clamp(min=LEAST_M)
        # A bone is as lost as the worse of its ends.
        lost_bone = (lost @ self.bones.abs() + (lost @ self.bones).abs()) / 2
        stiff = torch.exp(self.stiffness - self.slack[0] * lost_bone - self.slack[1] * lost_all)
        before = z @ self.bones
        for _ in range(ROUNDS):
            on_ray = self._onto_rays(x, y, z, channels[..., 3], channels[..., 4], share)
            x, y = (a + way * (b - a).clamp(-MOST_M, MOST_M) for a, b in zip((x, y), on_ray, strict=True))
            x, y = x - x[..., :1], y - y[..., :1]
            wide = (x @ self.bones).square() + (y @ self.bones).square()
            z = self._deep(wide, before, stiff, 1.01 - lost_bone) @ self.chain
        return torch.stack([x, y, z], -1)

    def _onto_rays(
        self, x: Tensor, y: Tensor, z: Tensor, across: Tensor, down: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x and y of the joints' rays at the joints' depths, metres, the body where the rays fit it best.

        x, y, z: (batch, frames, 17); across, down: places in the picture, +-1 on the longer side. The focal length is
        not known: several are tried, and those that fit best mixed.
        """
        x, y, z, share = (each[:, None] for each in (x, y, z, share))
        rays = [each[:, None] * self.slopes for each in (across, down)]  # (batch, slopes, frames, 17) each

        def mean(values: Tensor) -> Tensor:
            return (share * values).sum(-1, keepdim=True)

        off = [ray * z - flat for ray, flat in zip(rays, (x, y), strict=True)]
        bent = [ray - mean(ray) for ray in rays]
        # The distance at which rays and body agree best, in closed form.
        along = mean(bent[0] * off[0] + bent[1] * off[1])
        away = (-along / mean(bent[0].square() + bent[1].square()).clamp(min=1e-7)).clamp(0.3, 100.0)
        beside = [each + ray * away for each, ray in zip(off, rays, strict=True)]
        missed = [each - mean(each) for each in beside]
        error = mean(missed[0].square() + missed[1].square()).clamp(min=1e-8).sqrt().mean(2, keepdim=True)
        best = torch.softmax(-error * torch.exp(self.sharpness), 1)  # (batch, slopes, 1, 1)
        return x[:, 0] + (best * missed[0]).sum(1), y[:, 0] + (best * missed[1]).sum(1)

    def _deep(self, wide: Tensor, before: Tensor, stiff: Tensor, sure: Tensor) -> Tensor:
        """(batch, frames, 16) metres of depth along each bone, with which it has its own length in every frame, left as
        right. wide: what the rays leave of it, squared; before: the network's depth."""
        squared = (wide + before.square()).clamp(min=LEAST_M**2)
        told = torch.exp(torch.log((wide / squared).clamp(min=1e-4)) * (self.flatness / 2)) * sure
        length = (told * squared.sqrt()).sum(1, keepdim=True) @ self.both_sides
        length = length / (told.sum(1, keepdim=True) @ self.both_sides)
        deep = before
        for _ in range(STEPS):
            now = (wide + deep.square()).clamp(min=LEAST_M**2).sqrt()
            slope = deep / now
            deep = deep - (deep - before + stiff * slope * (now - length)) / (1 + stiff * slope.square())
        return deep
