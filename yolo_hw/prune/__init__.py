# SPDX-License-Identifier: Apache-2.0
"""Pruning: channel groups, importance, selection, surgery, masks, and the methods made of them."""

from yolo_hw.prune.adapt_bn import adapt_batch_norms
from yolo_hw.prune.config import PruneConfig
from yolo_hw.prune.cost import CostKind, CostModel, LayerShape
from yolo_hw.prune.darknet_prune import DarknetPlan, Pruned, carry_out, plan_pruning, prune_model
from yolo_hw.prune.darknet_surgery import darknet_groups
from yolo_hw.prune.eagleeye import EagleEyeConfig
from yolo_hw.prune.gamma_report import GammaHistory
from yolo_hw.prune.gamma_sparsity import Decay, GammaSparsity, Penalty, StrengthSchedule
from yolo_hw.prune.groups import ChannelGroups, Group
from yolo_hw.prune.importance import IMPORTANCES, MemberTensors
from yolo_hw.prune.layer_removal import find_blocks, rank_blocks, remove_blocks
from yolo_hw.prune.magnitude import FilterOptions, darknet_filters, filter_masks, weight_masks
from yolo_hw.prune.mask_file import load_masks, save_masks
from yolo_hw.prune.masked_training import GradualMasks, MaskedTraining, MaskKeeper
from yolo_hw.prune.masks import apply_masks, join_masks, mask_report
from yolo_hw.prune.methods import METHODS
from yolo_hw.prune.module_prune import ModulePlan, plan_module, prune_module
from yolo_hw.prune.multiples import Narrow, Rounding
from yolo_hw.prune.patterns import block_masks, group_masks
from yolo_hw.prune.plan import DeadBias, PrunePlan
from yolo_hw.prune.preflight import check_scales
from yolo_hw.prune.random_widths import Band
from yolo_hw.prune.ranking import Scope
from yolo_hw.prune.record import load_darknet_plan, pruning_record, write_record
from yolo_hw.prune.reduce import Normalisation, Reduction
from yolo_hw.prune.scoring import Statistics
from yolo_hw.prune.search_data import SearchDataConfig, open_search_data
from yolo_hw.prune.select import Budget, Policy
from yolo_hw.prune.sensitivity import OutputError, SensitivityConfig, scan_sensitivity
from yolo_hw.prune.sparse_form import sparse_form
from yolo_hw.prune.statistics import collect_activations, collect_gradients, collect_taylor
from yolo_hw.prune.traced_surgery import PrunedModule, masked_module, prune_traced, rebuild

__all__ = [
    "IMPORTANCES",
    "METHODS",
    "Band",
    "Budget",
    "ChannelGroups",
    "CostKind",
    "CostModel",
    "DarknetPlan",
    "DeadBias",
    "Decay",
    "EagleEyeConfig",
    "FilterOptions",
    "GammaHistory",
    "GammaSparsity",
    "GradualMasks",
    "Group",
    "LayerShape",
    "MaskKeeper",
    "MaskedTraining",
    "MemberTensors",
    "ModulePlan",
    "Narrow",
    "Normalisation",
    "OutputError",
    "Penalty",
    "Policy",
    "PruneConfig",
    "PrunePlan",
    "Pruned",
    "PrunedModule",
    "Reduction",
    "Rounding",
    "Scope",
    "SearchDataConfig",
    "SensitivityConfig",
    "Statistics",
    "StrengthSchedule",
    "adapt_batch_norms",
    "apply_masks",
    "block_masks",
    "carry_out",
    "check_scales",
    "collect_activations",
    "collect_gradients",
    "collect_taylor",
    "darknet_filters",
    "darknet_groups",
    "filter_masks",
    "find_blocks",
    "group_masks",
    "join_masks",
    "load_darknet_plan",
    "load_masks",
    "mask_report",
    "masked_module",
    "open_search_data",
    "plan_module",
    "plan_pruning",
    "prune_model",
    "prune_module",
    "prune_traced",
    "pruning_record",
    "rank_blocks",
    "rebuild",
    "remove_blocks",
    "save_masks",
    "scan_sensitivity",
    "sparse_form",
    "weight_masks",
    "write_record",
]
