"""The paper's efficient students: E-RADIO, and the networks that it is compared with in Table 7."""

from typing import Any

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.distill.recipes.paper import DINO_V2, paper_run
from radio_core.models.backbone import BackboneConfig
from radio_core.models.eradio import E_RADIO_B, ERadioConfig, eradio_config
from radio_core.models.timm_student import TimmConfig

_IMAGENET_21K = ("data/imagenet-21k",)  # 5.1; for the user to fetch
_OPENCLIP = TeacherConfig(source="open_clip:ViT-H-14/laion2b_s32b_b79k")  # 5.1
_WINDOW = 7  # figure 3: "at 224px resolution, with a window size of 7"


def e_radio_b() -> TrainConfig:
    """E-RADIO-B from OpenCLIP-H and DINOv2-g at 224 pixels (paper 5.1)."""
    return _run("e-radio-b", _eradio(**E_RADIO_B))


def e_radio_l() -> TrainConfig:
    """E-RADIO-L, as released (391M parameters in Table 1), trained as in paper 5.1."""
    return _run("e-radio-l", _eradio())


def timm_network(name: str) -> TrainConfig:
    """Any network of timm, trained as those of the paper's Table 7."""
    return _run(f"timm:{name}", TimmConfig(name=name))


def _eradio(**shape: Any) -> ERadioConfig:
    return eradio_config("eradio", window_size=[_WINDOW] * 4, **shape)


def _run(recipe: str, student: BackboneConfig) -> TrainConfig:
    """5.1: "no change in training hyperparameters"; 224 pixels as in Table 7."""
    step = student.resolution_step
    group = GroupConfig(
        teachers=("clip", "dino_v2"),
        batch_size=1024,  # section 4
        # Networks with coarser steps than 32 pixels get the nearest side that they take.
        resolutions=(max(round(224 / step), 1) * step,),
        teacher_sizes={"dino_v2": 224},  # section 4
    )
    teachers = {"clip": _OPENCLIP, "dino_v2": DINO_V2}
    stages = (StageConfig(steps=600_000, groups=(group,)),)  # section 4
    return paper_run(recipe, student, teachers, stages, _IMAGENET_21K)
