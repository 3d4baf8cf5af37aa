"""The catalogue of methods: one paper, one file; importing a file here registers its methods."""

from heatproof.methods.attention_eclip import AttentionECLIP
from heatproof.methods.attention_x_gradient import AttentionXGradient
from heatproof.methods.base import Card, Factors, Method, Plan, ReadPass, Side
from heatproof.methods.controls import Center, Edges, RandomMap
from heatproof.methods.foreign import Foreign
from heatproof.methods.foreign_packages import captum_method, grad_cam_method
from heatproof.methods.gae import GAE
from heatproof.methods.grad_eclip import GradECLIP
from heatproof.methods.kernel_shap import KernelSHAP
from heatproof.methods.m2ib import M2IB
from heatproof.methods.occlusion import Occlusion
from heatproof.methods.raw_attention import RawAttention
from heatproof.methods.registry import Entry, Switch, catalogue, create, register
from heatproof.methods.rise import RISE
from heatproof.methods.rollout import Rollout
from heatproof.methods.second_order import SecondOrder
from heatproof.methods.vit_cx import ViTCX

__all__ = [
    "GAE",
    "M2IB",
    "RISE",
    "AttentionECLIP",
    "AttentionXGradient",
    "Card",
    "Center",
    "Edges",
    "Entry",
    "Factors",
    "Foreign",
    "GradECLIP",
    "KernelSHAP",
    "Method",
    "Occlusion",
    "Plan",
    "RandomMap",
    "RawAttention",
    "ReadPass",
    "Rollout",
    "SecondOrder",
    "Side",
    "Switch",
    "ViTCX",
    "captum_method",
    "catalogue",
    "create",
    "grad_cam_method",
    "register",
]
