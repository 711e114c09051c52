# Written by `python -m tests.stubs`: do not edit.
import builtins
from typing import Any

from tensorlib import amp as amp, autograd as autograd, cuda as cuda, data as data, distributed as distributed, errors as errors, func as func, fused as fused, io as io, memory as memory, nn as nn, optim as optim, random as random, utils as utils
from builtins import tuple as Size
from tensorlib.autograd.modes import enable_grad as enable_grad
from tensorlib.autograd.modes import inference_mode as inference_mode
from tensorlib.autograd.modes import is_grad_enabled as is_grad_enabled
from tensorlib.autograd.modes import is_inference_mode_enabled as is_inference_mode_enabled
from tensorlib.autograd.modes import no_grad as no_grad
from tensorlib.autograd.modes import set_grad_enabled as set_grad_enabled
from tensorlib.backends.tf32 import get_float32_matmul_precision as get_float32_matmul_precision
from tensorlib.backends.tf32 import set_float32_matmul_precision as set_float32_matmul_precision
from tensorlib.device import Device as Device
from tensorlib.device import device as device
from tensorlib.device import get_default_device as get_default_device
from tensorlib.device import set_default_device as set_default_device
from tensorlib.dtypes import DType as DType
from tensorlib.dtypes import DType as dtype
from tensorlib.dtypes import bfloat16 as bfloat16
from tensorlib.dtypes import bool_ as bool_
from tensorlib.dtypes import can_cast as can_cast
from tensorlib.dtypes import complex128 as complex128
from tensorlib.dtypes import complex64 as complex64
from tensorlib.dtypes import finfo as finfo
from tensorlib.dtypes import float16 as float16
from tensorlib.dtypes import float32 as float32
from tensorlib.dtypes import float64 as float64
from tensorlib.dtypes import get_default_dtype as get_default_dtype
from tensorlib.dtypes import iinfo as iinfo
from tensorlib.dtypes import int16 as int16
from tensorlib.dtypes import int32 as int32
from tensorlib.dtypes import int64 as int64
from tensorlib.dtypes import int8 as int8
from tensorlib.dtypes import promote_types as promote_types
from tensorlib.dtypes import result_category as result_category
from tensorlib.dtypes import set_default_dtype as set_default_dtype
from tensorlib.dtypes import uint8 as uint8
from tensorlib.errors import CaptureError as CaptureError
from tensorlib.errors import CheckpointError as CheckpointError
from tensorlib.errors import DTypeError as DTypeError
from tensorlib.errors import DeviceError as DeviceError
from tensorlib.errors import FileFormatError as FileFormatError
from tensorlib.errors import GradError as GradError
from tensorlib.errors import IndexRangeError as IndexRangeError
from tensorlib.errors import MemoryLimitError as MemoryLimitError
from tensorlib.errors import ReadOnlyError as ReadOnlyError
from tensorlib.errors import ShapeError as ShapeError
from tensorlib.errors import TensorlibError as TensorlibError
from tensorlib.io.files import load as load
from tensorlib.io.files import save as save
from tensorlib.ops.activations import gelu as gelu
from tensorlib.ops.activations import logit as logit
from tensorlib.ops.activations import logsigmoid as logsigmoid
from tensorlib.ops.activations import mish as mish
from tensorlib.ops.activations import relu as relu
from tensorlib.ops.activations import sigmoid as sigmoid
from tensorlib.ops.activations import silu as silu
from tensorlib.ops.activations import softplus as softplus
from tensorlib.ops.activations import softsign as softsign
from tensorlib.ops.attention import scaled_dot_product_attention as scaled_dot_product_attention
from tensorlib.ops.bags import embedding_bag as embedding_bag
from tensorlib.ops.channel_norms import batch_norm as batch_norm
from tensorlib.ops.channel_norms import group_norm as group_norm
from tensorlib.ops.channel_norms import instance_norm as instance_norm
from tensorlib.ops.comparison import allclose as allclose
from tensorlib.ops.comparison import bitwise_and as bitwise_and
from tensorlib.ops.comparison import bitwise_left_shift as bitwise_left_shift
from tensorlib.ops.comparison import bitwise_not as bitwise_not
from tensorlib.ops.comparison import bitwise_or as bitwise_or
from tensorlib.ops.comparison import bitwise_right_shift as bitwise_right_shift
from tensorlib.ops.comparison import bitwise_xor as bitwise_xor
from tensorlib.ops.comparison import eq as eq
from tensorlib.ops.comparison import equal as equal
from tensorlib.ops.comparison import ge as ge
from tensorlib.ops.comparison import greater as greater
from tensorlib.ops.comparison import greater_equal as greater_equal
from tensorlib.ops.comparison import gt as gt
from tensorlib.ops.comparison import isclose as isclose
from tensorlib.ops.comparison import isfinite as isfinite
from tensorlib.ops.comparison import isinf as isinf
from tensorlib.ops.comparison import isnan as isnan
from tensorlib.ops.comparison import isneginf as isneginf
from tensorlib.ops.comparison import isposinf as isposinf
from tensorlib.ops.comparison import le as le
from tensorlib.ops.comparison import less as less
from tensorlib.ops.comparison import less_equal as less_equal
from tensorlib.ops.comparison import logical_and as logical_and
from tensorlib.ops.comparison import logical_not as logical_not
from tensorlib.ops.comparison import logical_or as logical_or
from tensorlib.ops.comparison import logical_xor as logical_xor
from tensorlib.ops.comparison import lt as lt
from tensorlib.ops.comparison import ne as ne
from tensorlib.ops.comparison import not_equal as not_equal
from tensorlib.ops.comparison import signbit as signbit
from tensorlib.ops.conv import conv1d as conv1d
from tensorlib.ops.conv import conv2d as conv2d
from tensorlib.ops.conv import conv3d as conv3d
from tensorlib.ops.conv import conv_transpose1d as conv_transpose1d
from tensorlib.ops.conv import conv_transpose2d as conv_transpose2d
from tensorlib.ops.conv import conv_transpose3d as conv_transpose3d
from tensorlib.ops.conversion import is_complex as is_complex
from tensorlib.ops.conversion import is_floating_point as is_floating_point
from tensorlib.ops.conversion import result_type as result_type
from tensorlib.ops.creation import arange as arange
from tensorlib.ops.creation import as_tensor as as_tensor
from tensorlib.ops.creation import asarray as asarray
from tensorlib.ops.creation import empty as empty
from tensorlib.ops.creation import empty_like as empty_like
from tensorlib.ops.creation import eye as eye
from tensorlib.ops.creation import from_dlpack as from_dlpack
from tensorlib.ops.creation import from_numpy as from_numpy
from tensorlib.ops.creation import full as full
from tensorlib.ops.creation import full_like as full_like
from tensorlib.ops.creation import linspace as linspace
from tensorlib.ops.creation import logspace as logspace
from tensorlib.ops.creation import ones as ones
from tensorlib.ops.creation import ones_like as ones_like
from tensorlib.ops.creation import scalar_tensor as scalar_tensor
from tensorlib.ops.creation import tensor as tensor
from tensorlib.ops.creation import zeros as zeros
from tensorlib.ops.creation import zeros_like as zeros_like
from tensorlib.ops.crf import crf_total as crf_total
from tensorlib.ops.ctc import ctc_loss as ctc_loss
from tensorlib.ops.diagonals import diag as diag
from tensorlib.ops.diagonals import diag_embed as diag_embed
from tensorlib.ops.diagonals import diagflat as diagflat
from tensorlib.ops.diagonals import tril as tril
from tensorlib.ops.diagonals import tril_indices as tril_indices
from tensorlib.ops.diagonals import triu as triu
from tensorlib.ops.diagonals import triu_indices as triu_indices
from tensorlib.ops.distances import cdist as cdist
from tensorlib.ops.distances import dist as dist
from tensorlib.ops.einsum import einsum as einsum
from tensorlib.ops.elementwise import abs as abs
from tensorlib.ops.elementwise import absolute as absolute
from tensorlib.ops.elementwise import add as add
from tensorlib.ops.elementwise import addcdiv as addcdiv
from tensorlib.ops.elementwise import addcmul as addcmul
from tensorlib.ops.elementwise import ceil as ceil
from tensorlib.ops.elementwise import copysign as copysign
from tensorlib.ops.elementwise import deg2rad as deg2rad
from tensorlib.ops.elementwise import div as div
from tensorlib.ops.elementwise import divide as divide
from tensorlib.ops.elementwise import fix as fix
from tensorlib.ops.elementwise import floor as floor
from tensorlib.ops.elementwise import floor_divide as floor_divide
from tensorlib.ops.elementwise import fmod as fmod
from tensorlib.ops.elementwise import frac as frac
from tensorlib.ops.elementwise import gcd as gcd
from tensorlib.ops.elementwise import lcm as lcm
from tensorlib.ops.elementwise import lerp as lerp
from tensorlib.ops.elementwise import mul as mul
from tensorlib.ops.elementwise import multiply as multiply
from tensorlib.ops.elementwise import neg as neg
from tensorlib.ops.elementwise import negative as negative
from tensorlib.ops.elementwise import positive as positive
from tensorlib.ops.elementwise import rad2deg as rad2deg
from tensorlib.ops.elementwise import reciprocal as reciprocal
from tensorlib.ops.elementwise import remainder as remainder
from tensorlib.ops.elementwise import round as round
from tensorlib.ops.elementwise import rsub as rsub
from tensorlib.ops.elementwise import sgn as sgn
from tensorlib.ops.elementwise import sign as sign
from tensorlib.ops.elementwise import square as square
from tensorlib.ops.elementwise import sub as sub
from tensorlib.ops.elementwise import subtract as subtract
from tensorlib.ops.elementwise import true_divide as true_divide
from tensorlib.ops.elementwise import trunc as trunc
from tensorlib.ops.elementwise import where as where
from tensorlib.ops.extremes import amax as amax
from tensorlib.ops.extremes import amin as amin
from tensorlib.ops.extremes import aminmax as aminmax
from tensorlib.ops.extremes import argmax as argmax
from tensorlib.ops.extremes import argmin as argmin
from tensorlib.ops.extremes import max as max
from tensorlib.ops.extremes import median as median
from tensorlib.ops.extremes import min as min
from tensorlib.ops.fused import dropout as dropout
from tensorlib.ops.fused import embedding as embedding
from tensorlib.ops.fused import linear as linear
from tensorlib.ops.fused import log_softmax as log_softmax
from tensorlib.ops.fused import softmax as softmax
from tensorlib.ops.gather import gather as gather
from tensorlib.ops.gather import scatter as scatter
from tensorlib.ops.gather import scatter_add as scatter_add
from tensorlib.ops.gather import scatter_reduce as scatter_reduce
from tensorlib.ops.gather import take_along_dim as take_along_dim
from tensorlib.ops.indexing import index_put as index_put
from tensorlib.ops.indexing import take as take
from tensorlib.ops.joins import cat as cat
from tensorlib.ops.joins import chunk as chunk
from tensorlib.ops.joins import concat as concat
from tensorlib.ops.joins import concatenate as concatenate
from tensorlib.ops.joins import split as split
from tensorlib.ops.joins import stack as stack
from tensorlib.ops.joins import tensor_split as tensor_split
from tensorlib.ops.joins import unbind as unbind
from tensorlib.ops.linalg import bmm as bmm
from tensorlib.ops.linalg import chain_matmul as chain_matmul
from tensorlib.ops.linalg import cross as cross
from tensorlib.ops.linalg import dot as dot
from tensorlib.ops.linalg import ger as ger
from tensorlib.ops.linalg import inner as inner
from tensorlib.ops.linalg import kron as kron
from tensorlib.ops.linalg import matmul as matmul
from tensorlib.ops.linalg import matrix_power as matrix_power
from tensorlib.ops.linalg import mm as mm
from tensorlib.ops.linalg import mv as mv
from tensorlib.ops.linalg import outer as outer
from tensorlib.ops.linalg import tensordot as tensordot
from tensorlib.ops.linalg import trace as trace
from tensorlib.ops.linalg import vdot as vdot
from tensorlib.ops.losses import cross_entropy as cross_entropy
from tensorlib.ops.losses import nll_loss as nll_loss
from tensorlib.ops.norms import layer_norm as layer_norm
from tensorlib.ops.norms import rms_norm as rms_norm
from tensorlib.ops.padding import pad as pad
from tensorlib.ops.pairs import binary_cross_entropy as binary_cross_entropy
from tensorlib.ops.pairs import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from tensorlib.ops.pairs import huber_loss as huber_loss
from tensorlib.ops.pairs import kl_div as kl_div
from tensorlib.ops.pairs import l1_loss as l1_loss
from tensorlib.ops.pairs import mse_loss as mse_loss
from tensorlib.ops.pairs import smooth_l1_loss as smooth_l1_loss
from tensorlib.ops.patches import fold as fold
from tensorlib.ops.patches import pixel_shuffle as pixel_shuffle
from tensorlib.ops.patches import pixel_unshuffle as pixel_unshuffle
from tensorlib.ops.patches import unfold as unfold
from tensorlib.ops.piecewise import celu as celu
from tensorlib.ops.piecewise import elu as elu
from tensorlib.ops.piecewise import hardshrink as hardshrink
from tensorlib.ops.piecewise import hardsigmoid as hardsigmoid
from tensorlib.ops.piecewise import hardswish as hardswish
from tensorlib.ops.piecewise import hardtanh as hardtanh
from tensorlib.ops.piecewise import leaky_relu as leaky_relu
from tensorlib.ops.piecewise import prelu as prelu
from tensorlib.ops.piecewise import relu6 as relu6
from tensorlib.ops.piecewise import rrelu as rrelu
from tensorlib.ops.piecewise import selu as selu
from tensorlib.ops.piecewise import softshrink as softshrink
from tensorlib.ops.piecewise import tanhshrink as tanhshrink
from tensorlib.ops.piecewise import threshold as threshold
from tensorlib.ops.pooling import adaptive_avg_pool1d as adaptive_avg_pool1d
from tensorlib.ops.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from tensorlib.ops.pooling import adaptive_avg_pool3d as adaptive_avg_pool3d
from tensorlib.ops.pooling import adaptive_max_pool1d as adaptive_max_pool1d
from tensorlib.ops.pooling import adaptive_max_pool2d as adaptive_max_pool2d
from tensorlib.ops.pooling import adaptive_max_pool3d as adaptive_max_pool3d
from tensorlib.ops.pooling import avg_pool1d as avg_pool1d
from tensorlib.ops.pooling import avg_pool2d as avg_pool2d
from tensorlib.ops.pooling import avg_pool3d as avg_pool3d
from tensorlib.ops.pooling import max_pool1d as max_pool1d
from tensorlib.ops.pooling import max_pool2d as max_pool2d
from tensorlib.ops.pooling import max_pool3d as max_pool3d
from tensorlib.ops.positions import argwhere as argwhere
from tensorlib.ops.positions import index_add as index_add
from tensorlib.ops.positions import index_copy as index_copy
from tensorlib.ops.positions import index_fill as index_fill
from tensorlib.ops.positions import index_select as index_select
from tensorlib.ops.positions import masked_fill as masked_fill
from tensorlib.ops.positions import masked_scatter as masked_scatter
from tensorlib.ops.positions import masked_select as masked_select
from tensorlib.ops.positions import nonzero as nonzero
from tensorlib.ops.precision import autocast as autocast
from tensorlib.ops.precision import get_autocast_dtype as get_autocast_dtype
from tensorlib.ops.precision import is_autocast_enabled as is_autocast_enabled
from tensorlib.ops.rearrange import atleast_1d as atleast_1d
from tensorlib.ops.rearrange import atleast_2d as atleast_2d
from tensorlib.ops.rearrange import atleast_3d as atleast_3d
from tensorlib.ops.rearrange import block_diag as block_diag
from tensorlib.ops.rearrange import cartesian_prod as cartesian_prod
from tensorlib.ops.rearrange import column_stack as column_stack
from tensorlib.ops.rearrange import dstack as dstack
from tensorlib.ops.rearrange import flip as flip
from tensorlib.ops.rearrange import fliplr as fliplr
from tensorlib.ops.rearrange import flipud as flipud
from tensorlib.ops.rearrange import hstack as hstack
from tensorlib.ops.rearrange import meshgrid as meshgrid
from tensorlib.ops.rearrange import one_hot as one_hot
from tensorlib.ops.rearrange import repeat as repeat
from tensorlib.ops.rearrange import repeat_interleave as repeat_interleave
from tensorlib.ops.rearrange import roll as roll
from tensorlib.ops.rearrange import rot90 as rot90
from tensorlib.ops.rearrange import row_stack as row_stack
from tensorlib.ops.rearrange import tile as tile
from tensorlib.ops.rearrange import vstack as vstack
from tensorlib.ops.recurrent import gru_layer as gru_layer
from tensorlib.ops.recurrent import lstm_layer as lstm_layer
from tensorlib.ops.recurrent import rnn_layer as rnn_layer
from tensorlib.ops.reductions import all as all
from tensorlib.ops.reductions import any as any
from tensorlib.ops.reductions import count_nonzero as count_nonzero
from tensorlib.ops.reductions import logsumexp as logsumexp
from tensorlib.ops.reductions import mean as mean
from tensorlib.ops.reductions import nanmean as nanmean
from tensorlib.ops.reductions import nansum as nansum
from tensorlib.ops.reductions import norm as norm
from tensorlib.ops.reductions import prod as prod
from tensorlib.ops.reductions import std as std
from tensorlib.ops.reductions import std_mean as std_mean
from tensorlib.ops.reductions import sum as sum
from tensorlib.ops.reductions import var as var
from tensorlib.ops.reductions import var_mean as var_mean
from tensorlib.ops.resample import interpolate as interpolate
from tensorlib.ops.rows import RowMethods as RowMethods
from tensorlib.ops.sampling import affine_grid as affine_grid
from tensorlib.ops.sampling import grid_sample as grid_sample
from tensorlib.ops.scaled import addbmm as addbmm
from tensorlib.ops.scaled import addmm as addmm
from tensorlib.ops.scaled import addmv as addmv
from tensorlib.ops.scaled import addr as addr
from tensorlib.ops.scaled import baddbmm as baddbmm
from tensorlib.ops.scans import cumprod as cumprod
from tensorlib.ops.scans import cumsum as cumsum
from tensorlib.ops.scans import diff as diff
from tensorlib.ops.selection import clamp as clamp
from tensorlib.ops.selection import clamp_max as clamp_max
from tensorlib.ops.selection import clamp_min as clamp_min
from tensorlib.ops.selection import clip as clip
from tensorlib.ops.selection import fmax as fmax
from tensorlib.ops.selection import fmin as fmin
from tensorlib.ops.selection import heaviside as heaviside
from tensorlib.ops.selection import maximum as maximum
from tensorlib.ops.selection import minimum as minimum
from tensorlib.ops.selection import nan_to_num as nan_to_num
from tensorlib.ops.shape import as_strided as as_strided
from tensorlib.ops.shape import broadcast_tensors as broadcast_tensors
from tensorlib.ops.shape import broadcast_to as broadcast_to
from tensorlib.ops.shape import clone as clone
from tensorlib.ops.shape import detach as detach
from tensorlib.ops.shape import diagonal as diagonal
from tensorlib.ops.shape import expand_as as expand_as
from tensorlib.ops.shape import flatten as flatten
from tensorlib.ops.shape import moveaxis as moveaxis
from tensorlib.ops.shape import movedim as movedim
from tensorlib.ops.shape import narrow as narrow
from tensorlib.ops.shape import numel as numel
from tensorlib.ops.shape import permute as permute
from tensorlib.ops.shape import ravel as ravel
from tensorlib.ops.shape import reshape as reshape
from tensorlib.ops.shape import select as select
from tensorlib.ops.shape import squeeze as squeeze
from tensorlib.ops.shape import swapaxes as swapaxes
from tensorlib.ops.shape import swapdims as swapdims
from tensorlib.ops.shape import t as t
from tensorlib.ops.shape import transpose as transpose
from tensorlib.ops.shape import unflatten as unflatten
from tensorlib.ops.shape import unsqueeze as unsqueeze
from tensorlib.ops.sorting import argsort as argsort
from tensorlib.ops.sorting import bincount as bincount
from tensorlib.ops.sorting import bucketize as bucketize
from tensorlib.ops.sorting import histc as histc
from tensorlib.ops.sorting import isin as isin
from tensorlib.ops.sorting import kthvalue as kthvalue
from tensorlib.ops.sorting import msort as msort
from tensorlib.ops.sorting import searchsorted as searchsorted
from tensorlib.ops.sorting import sort as sort
from tensorlib.ops.sorting import topk as topk
from tensorlib.ops.sorting import unique as unique
from tensorlib.ops.sorting import unique_consecutive as unique_consecutive
from tensorlib.ops.transcendental import acos as acos
from tensorlib.ops.transcendental import acosh as acosh
from tensorlib.ops.transcendental import arccos as arccos
from tensorlib.ops.transcendental import arccosh as arccosh
from tensorlib.ops.transcendental import arcsin as arcsin
from tensorlib.ops.transcendental import arcsinh as arcsinh
from tensorlib.ops.transcendental import arctan as arctan
from tensorlib.ops.transcendental import arctan2 as arctan2
from tensorlib.ops.transcendental import arctanh as arctanh
from tensorlib.ops.transcendental import asin as asin
from tensorlib.ops.transcendental import asinh as asinh
from tensorlib.ops.transcendental import atan as atan
from tensorlib.ops.transcendental import atan2 as atan2
from tensorlib.ops.transcendental import atanh as atanh
from tensorlib.ops.transcendental import cos as cos
from tensorlib.ops.transcendental import cosh as cosh
from tensorlib.ops.transcendental import digamma as digamma
from tensorlib.ops.transcendental import erf as erf
from tensorlib.ops.transcendental import erfc as erfc
from tensorlib.ops.transcendental import erfinv as erfinv
from tensorlib.ops.transcendental import exp as exp
from tensorlib.ops.transcendental import exp2 as exp2
from tensorlib.ops.transcendental import expm1 as expm1
from tensorlib.ops.transcendental import float_power as float_power
from tensorlib.ops.transcendental import hypot as hypot
from tensorlib.ops.transcendental import ldexp as ldexp
from tensorlib.ops.transcendental import lgamma as lgamma
from tensorlib.ops.transcendental import log as log
from tensorlib.ops.transcendental import log10 as log10
from tensorlib.ops.transcendental import log1p as log1p
from tensorlib.ops.transcendental import log2 as log2
from tensorlib.ops.transcendental import logaddexp as logaddexp
from tensorlib.ops.transcendental import logaddexp2 as logaddexp2
from tensorlib.ops.transcendental import polygamma as polygamma
from tensorlib.ops.transcendental import pow as pow
from tensorlib.ops.transcendental import rsqrt as rsqrt
from tensorlib.ops.transcendental import sin as sin
from tensorlib.ops.transcendental import sinc as sinc
from tensorlib.ops.transcendental import sinh as sinh
from tensorlib.ops.transcendental import sqrt as sqrt
from tensorlib.ops.transcendental import tan as tan
from tensorlib.ops.transcendental import tanh as tanh
from tensorlib.ops.transcendental import xlogy as xlogy
from tensorlib.ops.trees import tree_lstm as tree_lstm
from tensorlib.ops.unpooling import lp_pool1d as lp_pool1d
from tensorlib.ops.unpooling import lp_pool2d as lp_pool2d
from tensorlib.ops.unpooling import lp_pool3d as lp_pool3d
from tensorlib.ops.unpooling import max_unpool1d as max_unpool1d
from tensorlib.ops.unpooling import max_unpool2d as max_unpool2d
from tensorlib.ops.unpooling import max_unpool3d as max_unpool3d
from tensorlib.random import Generator as Generator
from tensorlib.random import bernoulli as bernoulli
from tensorlib.random import default_generator as default_generator
from tensorlib.random import fork_stream as fork_stream
from tensorlib.random import get_rng_state as get_rng_state
from tensorlib.random import initial_seed as initial_seed
from tensorlib.random import manual_seed as manual_seed
from tensorlib.random import multinomial as multinomial
from tensorlib.random import normal as normal
from tensorlib.random import rand as rand
from tensorlib.random import rand_like as rand_like
from tensorlib.random import randint as randint
from tensorlib.random import randint_like as randint_like
from tensorlib.random import randn as randn
from tensorlib.random import randn_like as randn_like
from tensorlib.random import randperm as randperm
from tensorlib.random import seed as seed
from tensorlib.random import set_rng_state as set_rng_state
from tensorlib.sparse import SparseTensor as SparseTensor
from tensorlib.sparse import sparse_coo_tensor as sparse_coo_tensor
from tensorlib.tensor import Tensor as Tensor
from tensorlib.threads import are_deterministic_algorithms_enabled as are_deterministic_algorithms_enabled
from tensorlib.threads import get_cpu_capability as get_cpu_capability
from tensorlib.threads import get_num_threads as get_num_threads
from tensorlib.threads import set_flush_denormal as set_flush_denormal
from tensorlib.threads import set_num_threads as set_num_threads
from tensorlib.threads import use_deterministic_algorithms as use_deterministic_algorithms

__version__: str
bool: DType
cdouble: DType
cfloat: DType
double: DType
e: builtins.float
float: DType
half: DType
inf: builtins.float
int: DType
def is_tensor(x: Any) -> Any: ...
long: DType
nan: builtins.float
newaxis: None
pi: builtins.float
short: DType

__all__ = [
    "CaptureError",
    "CheckpointError",
    "DType",
    "DTypeError",
    "Device",
    "DeviceError",
    "FileFormatError",
    "Generator",
    "GradError",
    "IndexRangeError",
    "MemoryLimitError",
    "ReadOnlyError",
    "RowMethods",
    "ShapeError",
    "Size",
    "SparseTensor",
    "Tensor",
    "TensorlibError",
    "abs",
    "absolute",
    "acos",
    "acosh",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "add",
    "addbmm",
    "addcdiv",
    "addcmul",
    "addmm",
    "addmv",
    "addr",
    "affine_grid",
    "all",
    "allclose",
    "amax",
    "amin",
    "aminmax",
    "amp",
    "any",
    "arange",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "are_deterministic_algorithms_enabled",
    "argmax",
    "argmin",
    "argsort",
    "argwhere",
    "as_strided",
    "as_tensor",
    "asarray",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "autocast",
    "autograd",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "baddbmm",
    "batch_norm",
    "bernoulli",
    "bfloat16",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "bincount",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "block_diag",
    "bmm",
    "bool",
    "bool_",
    "broadcast_tensors",
    "broadcast_to",
    "bucketize",
    "can_cast",
    "cartesian_prod",
    "cat",
    "cdist",
    "cdouble",
    "ceil",
    "celu",
    "cfloat",
    "chain_matmul",
    "chunk",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "clone",
    "column_stack",
    "complex128",
    "complex64",
    "concat",
    "concatenate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "crf_total",
    "cross",
    "cross_entropy",
    "ctc_loss",
    "cuda",
    "cumprod",
    "cumsum",
    "data",
    "default_generator",
    "deg2rad",
    "detach",
    "device",
    "diag",
    "diag_embed",
    "diagflat",
    "diagonal",
    "diff",
    "digamma",
    "dist",
    "distributed",
    "div",
    "divide",
    "dot",
    "double",
    "dropout",
    "dstack",
    "dtype",
    "e",
    "einsum",
    "elu",
    "embedding",
    "embedding_bag",
    "empty",
    "empty_like",
    "enable_grad",
    "eq",
    "equal",
    "erf",
    "erfc",
    "erfinv",
    "errors",
    "exp",
    "exp2",
    "expand_as",
    "expm1",
    "eye",
    "finfo",
    "fix",
    "flatten",
    "flip",
    "fliplr",
    "flipud",
    "float",
    "float16",
    "float32",
    "float64",
    "float_power",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "fold",
    "fork_stream",
    "frac",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "func",
    "fused",
    "gather",
    "gcd",
    "ge",
    "gelu",
    "ger",
    "get_autocast_dtype",
    "get_cpu_capability",
    "get_default_device",
    "get_default_dtype",
    "get_float32_matmul_precision",
    "get_num_threads",
    "get_rng_state",
    "greater",
    "greater_equal",
    "grid_sample",
    "group_norm",
    "gru_layer",
    "gt",
    "half",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "heaviside",
    "histc",
    "hstack",
    "huber_loss",
    "hypot",
    "iinfo",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_select",
    "inf",
    "inference_mode",
    "initial_seed",
    "inner",
    "instance_norm",
    "int",
    "int16",
    "int32",
    "int64",
    "int8",
    "interpolate",
    "io",
    "is_autocast_enabled",
    "is_complex",
    "is_floating_point",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_tensor",
    "isclose",
    "isfinite",
    "isin",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "kl_div",
    "kron",
    "kthvalue",
    "l1_loss",
    "layer_norm",
    "lcm",
    "ldexp",
    "le",
    "leaky_relu",
    "lerp",
    "less",
    "less_equal",
    "lgamma",
    "linear",
    "linspace",
    "load",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_softmax",
    "logaddexp",
    "logaddexp2",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logit",
    "logsigmoid",
    "logspace",
    "logsumexp",
    "long",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "lstm_layer",
    "lt",
    "manual_seed",
    "masked_fill",
    "masked_scatter",
    "masked_select",
    "matmul",
    "matrix_power",
    "max",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "maximum",
    "mean",
    "median",
    "memory",
    "meshgrid",
    "min",
    "minimum",
    "mish",
    "mm",
    "moveaxis",
    "movedim",
    "mse_loss",
    "msort",
    "mul",
    "multinomial",
    "multiply",
    "mv",
    "nan",
    "nan_to_num",
    "nanmean",
    "nansum",
    "narrow",
    "ne",
    "neg",
    "negative",
    "newaxis",
    "nll_loss",
    "nn",
    "no_grad",
    "nonzero",
    "norm",
    "normal",
    "not_equal",
    "numel",
    "one_hot",
    "ones",
    "ones_like",
    "optim",
    "outer",
    "pad",
    "permute",
    "pi",
    "pixel_shuffle",
    "pixel_unshuffle",
    "polygamma",
    "positive",
    "pow",
    "prelu",
    "prod",
    "promote_types",
    "rad2deg",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random",
    "randperm",
    "ravel",
    "reciprocal",
    "relu",
    "relu6",
    "remainder",
    "repeat",
    "repeat_interleave",
    "reshape",
    "result_category",
    "result_type",
    "rms_norm",
    "rnn_layer",
    "roll",
    "rot90",
    "round",
    "row_stack",
    "rrelu",
    "rsqrt",
    "rsub",
    "save",
    "scalar_tensor",
    "scaled_dot_product_attention",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "searchsorted",
    "seed",
    "select",
    "selu",
    "set_default_device",
    "set_default_dtype",
    "set_float32_matmul_precision",
    "set_flush_denormal",
    "set_grad_enabled",
    "set_num_threads",
    "set_rng_state",
    "sgn",
    "short",
    "sigmoid",
    "sign",
    "signbit",
    "silu",
    "sin",
    "sinc",
    "sinh",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softshrink",
    "softsign",
    "sort",
    "sparse_coo_tensor",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "std_mean",
    "sub",
    "subtract",
    "sum",
    "swapaxes",
    "swapdims",
    "t",
    "take",
    "take_along_dim",
    "tan",
    "tanh",
    "tanhshrink",
    "tensor",
    "tensor_split",
    "tensordot",
    "threshold",
    "tile",
    "topk",
    "trace",
    "transpose",
    "tree_lstm",
    "tril",
    "tril_indices",
    "triu",
    "triu_indices",
    "true_divide",
    "trunc",
    "uint8",
    "unbind",
    "unflatten",
    "unfold",
    "unique",
    "unique_consecutive",
    "unsqueeze",
    "use_deterministic_algorithms",
    "utils",
    "var",
    "var_mean",
    "vdot",
    "vstack",
    "where",
    "xlogy",
    "zeros",
    "zeros_like",
]
