"""Fragments made by hand, and other ways to compute what the example computes."""

import numpy as np
import torch

from bridges.protein import RESIDUES

LENGTH = 24
BONDS = {"N": 1.329, "CA": 1.458, "C": 1.525}  # to the atom before, angstrom
ANGLES = {"N": 116.2, "CA": 121.7, "C": 111.0}  # at the atom before, degrees


def chain_of(phi, psi, length=LENGTH, omega=180.0):
    """N, CA, C (length, 3, 3) with the same torsions, in degrees, at every residue."""
    atoms = [np.zeros(3), np.array([1.458, 0, 0]), np.array([2.0, 1.42, 0])]
    turn = {"N": psi, "CA": omega, "C": phi}
    for k in range(3, 3 * length):
        name = ("N", "CA", "C")[k % 3]
        atoms.append(_place(*atoms[-3:], BONDS[name], ANGLES[name], turn[name]))
    return torch.tensor(np.array(atoms), dtype=torch.float32).view(length, 3, 3)


def _place(a, b, c, bond, angle, torsion):
    angle, torsion = np.radians(angle), np.radians(torsion)
    x = (c - b) / np.linalg.norm(c - b)
    z = np.cross(b - a, x) / np.linalg.norm(np.cross(b - a, x))
    y = np.cross(z, x)
    sine = np.sin(angle)
    return c + bond * (-np.cos(angle) * x + sine * (np.cos(torsion) * y + np.sin(torsion) * z))


def degrees(*values):
    return torch.deg2rad(torch.tensor(values, dtype=torch.float32))


def tokens(text):
    return torch.tensor([RESIDUES.index(letter) for letter in text])


def random_rotations(n, generator):
    q, r = torch.linalg.qr(torch.randn(n, 3, 3, dtype=torch.float64, generator=generator))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return q * q.det()[:, None, None]


def kabsch(a, b):
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    u, s, vh = torch.linalg.svd(a.T @ b)
    s[2] *= (u @ vh).det().sign()
    return ((a.square().sum() + b.square().sum() - 2 * s.sum()) / len(a)).clamp(min=0).sqrt()
