"""The catalogue of methods: one paper, one file.

A new file is registered without a line here; a line gives its class a name in this package.
"""

import importlib
import pkgutil

from heatproof.methods.attcat import AttCAT as AttCAT
from heatproof.methods.attention_eclip import AttentionECLIP as AttentionECLIP
from heatproof.methods.attention_grad_cam import AttentionGradCAM as AttentionGradCAM
from heatproof.methods.attention_x_gradient import AttentionXGradient as AttentionXGradient
from heatproof.methods.attnlrp import AttnLRP as AttnLRP
from heatproof.methods.base import ExplainedTower as ExplainedTower
from heatproof.methods.base import Factors as Factors
from heatproof.methods.base import Method as Method
from heatproof.methods.base import MethodCard as MethodCard
from heatproof.methods.base import Plan as Plan
from heatproof.methods.base import ReadPass as ReadPass
from heatproof.methods.base import ScoreMethod as ScoreMethod
from heatproof.methods.base import Side as Side
from heatproof.methods.clearclip import ClearCLIP as ClearCLIP
from heatproof.methods.clip_surgery import CLIPSurgery as CLIPSurgery
from heatproof.methods.controls import BlurredRandom as BlurredRandom
from heatproof.methods.controls import Center as Center
from heatproof.methods.controls import Edges as Edges
from heatproof.methods.controls import RandomMap as RandomMap
from heatproof.methods.foreign import Foreign as Foreign
from heatproof.methods.foreign import method_of as method_of
from heatproof.methods.gae import GAE as GAE
from heatproof.methods.grad_cam import GradCAM as GradCAM
from heatproof.methods.grad_eclip import GradECLIP as GradECLIP
from heatproof.methods.input_x_gradient import InputXGradient as InputXGradient
from heatproof.methods.integrated_gradients import IntegratedGradients as IntegratedGradients
from heatproof.methods.kernel_shap import KernelSHAP as KernelSHAP
from heatproof.methods.legrad import LeGrad as LeGrad
from heatproof.methods.libragrad import LibraGrad as LibraGrad
from heatproof.methods.m2ib import M2IB as M2IB
from heatproof.methods.maskclip import MaskCLIP as MaskCLIP
from heatproof.methods.occlusion import Occlusion as Occlusion
from heatproof.methods.raw_attention import RawAttention as RawAttention
from heatproof.methods.readout import ReadoutMethod as ReadoutMethod
from heatproof.methods.registry import catalogue as catalogue
from heatproof.methods.registry import create as create
from heatproof.methods.registry import register as register
from heatproof.methods.rise import RISE as RISE
from heatproof.methods.rollout import Rollout as Rollout
from heatproof.methods.sclip import SCLIP as SCLIP
from heatproof.methods.second_order import SecondOrder as SecondOrder
from heatproof.methods.smoothgrad import SmoothGrad as SmoothGrad
from heatproof.methods.token_decomposition import ScoreTerms as ScoreTerms
from heatproof.methods.token_decomposition import TokenDecomposition as TokenDecomposition
from heatproof.methods.transformer_attribution import (
    TransformerAttribution as TransformerAttribution,
)
from heatproof.methods.vit_cx import ViTCX as ViTCX

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
