"""The catalogue of methods: one paper, one file; importing a file here registers its methods."""

from heatproof.methods.attcat import AttCAT
from heatproof.methods.attention_eclip import AttentionECLIP
from heatproof.methods.attention_grad_cam import AttentionGradCAM
from heatproof.methods.attention_x_gradient import AttentionXGradient
from heatproof.methods.attnlrp import AttnLRP
from heatproof.methods.base import Factors, Method, MethodCard, Plan, ReadPass, Side, Tower
from heatproof.methods.clearclip import ClearCLIP
from heatproof.methods.clip_surgery import CLIPSurgery
from heatproof.methods.controls import BlurredRandom, Center, Edges, RandomMap
from heatproof.methods.foreign import Foreign, method_of
from heatproof.methods.foreign_packages import captum_method, grad_cam_method
from heatproof.methods.gae import GAE
from heatproof.methods.grad_cam import GradCAM
from heatproof.methods.grad_eclip import GradECLIP
from heatproof.methods.input_x_gradient import InputXGradient
from heatproof.methods.integrated_gradients import IntegratedGradients
from heatproof.methods.kernel_shap import KernelSHAP
from heatproof.methods.legrad import LeGrad
from heatproof.methods.libragrad import LibraGrad
from heatproof.methods.m2ib import M2IB
from heatproof.methods.maskclip import MaskCLIP
from heatproof.methods.occlusion import Occlusion
from heatproof.methods.raw_attention import RawAttention
from heatproof.methods.registry import catalogue, create, register
from heatproof.methods.rise import RISE
from heatproof.methods.rollout import Rollout
from heatproof.methods.sclip import SCLIP
from heatproof.methods.second_order import SecondOrder
from heatproof.methods.smoothgrad import SmoothGrad
from heatproof.methods.textspan import Span, head_outputs, text_span
from heatproof.methods.token_decomposition import Parts, TokenDecomposition
from heatproof.methods.transformer_attribution import TransformerAttribution
from heatproof.methods.vit_cx import ViTCX

__all__ = [
    "GAE",
    "M2IB",
    "RISE",
    "SCLIP",
    "AttCAT",
    "AttentionECLIP",
    "AttentionGradCAM",
    "AttentionXGradient",
    "AttnLRP",
    "BlurredRandom",
    "CLIPSurgery",
    "Center",
    "ClearCLIP",
    "Edges",
    "Factors",
    "Foreign",
    "GradCAM",
    "GradECLIP",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "LeGrad",
    "LibraGrad",
    "MaskCLIP",
    "Method",
    "MethodCard",
    "Occlusion",
    "Parts",
    "Plan",
    "RandomMap",
    "RawAttention",
    "ReadPass",
    "Rollout",
    "SecondOrder",
    "Side",
    "SmoothGrad",
    "Span",
    "TokenDecomposition",
    "Tower",
    "TransformerAttribution",
    "ViTCX",
    "captum_method",
    "catalogue",
    "create",
    "grad_cam_method",
    "head_outputs",
    "method_of",
    "register",
    "text_span",
]
