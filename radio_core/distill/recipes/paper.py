"""The runs of the AM-RADIO paper: ViT students, E-RADIO, and the networks of its Table 7.

Every number has the section of the paper that it is from. Where the paper is silent, the comment
says "silent", and the number is ours.
"""

from pathlib import Path

from radio_core.distill.config import (
    DataConfig,
    EngineConfig,
    LossConfig,
    OptimConfig,
    RunConfig,
    StudentConfig,
    TargetsConfig,
    TrainConfig,
)
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.models.backbone import BackboneConfig
from radio_core.models.eradio import E_RADIO_B, eradio_config
from radio_core.models.timm_student import TimmConfig
from radio_core.models.vit import vit_config

# 3.3: DataComp-1B, which is for the user to fetch; --data.sources names another place.
_DATACOMP = ("shards:data/datacomp-1b/*.tar",)
_IMAGENET_21K = ("data/imagenet-21k",)  # 5.1; for the user to fetch
_LAION = ("shards:data/laion-400m/*.tar",)
_POSITIONS = 128  # section 4: "the number of positions being equal to 128 squared"
_SAM_CHECKPOINT = "checkpoints/sam_vit_h_4b8939.pth"  # Meta's file, for the user to fetch
_BATCH = 1024  # section 4
_STEPS = 600_000  # section 4

METACLIP = TeacherConfig(source="open_clip:ViT-H-14-quickgelu/metaclip_fullcc")
DINO_V2 = TeacherConfig(source="dinov2:facebook/dinov2-giant")

_OPENCLIP = TeacherConfig(source="open_clip:ViT-H-14/laion2b_s32b_b79k")  # 5.1
_WINDOW = 7  # figure 3: "at 224px resolution, with a window size of 7"

# Section 4, "for our best student model"; Table 1 has DINOv2 with registers.
_BEST_TEACHERS = {
    "clip": TeacherConfig(source="open_clip:ViT-H-14-378-quickgelu/dfn5b"),
    "openai_clip": TeacherConfig(source="open_clip:ViT-L-14-336-quickgelu/openai"),
    "dino_v2": TeacherConfig(source="dinov2:facebook/dinov2-with-registers-giant"),
    # 3.4.1: lambda of SAM's summary is 0.
    "sam": TeacherConfig(source=f"sam:vit_h:{_SAM_CHECKPOINT}", summary_weight=0.0),
}
_SUMMARY_TEACHERS = ("clip", "openai_clip", "dino_v2")
_DINO_SIDE = {"dino_v2": 224}  # section 4: "the teacher operates at 224px"


def paper_run(
    recipe: str,
    student: BackboneConfig,
    teachers: dict[str, TeacherConfig],
    stages: tuple[StageConfig, ...],
    data: tuple[str, ...] = _DATACOMP,
) -> TrainConfig:
    """What all runs of the paper share (section 4, "General", unless said otherwise)."""
    return TrainConfig(
        recipe=recipe,
        run=RunConfig(  # conduct of the run, silent
            out=Path("runs") / recipe.replace(":", "-"), checkpoint_every=2000, log_every=50
        ),
        # "Random scale + cropping"; silent about the range.
        data=DataConfig(sources=data, crop_scale=(0.4, 1.0)),
        student=StudentConfig(backbone=student, dtype="float16"),
        teachers=teachers,
        stages=stages,
        # 3.4: smooth-L1 matches the magnitude of the teachers' vectors: no normalisation.
        targets=TargetsConfig(normalization="none"),
        loss=LossConfig(balancing="naive", alpha=0.9, beta=0.1),  # 3.4.1, 3.4
        optim=OptimConfig(
            lr=1e-3,  # section 4
            weight_decay=0.02,  # of the high-resolution stage; silent about the others
            warmup_steps=1000,  # silent
            clip_grad=1.0,  # silent
        ),
        engine=EngineConfig(precision="bf16", workers=8),  # silent; radio_v2.1 was trained so
    )


def radio_l_ablation() -> TrainConfig:
    """ViT-L/14 from MetaCLIP-H and DINOv2-g at 224 pixels (paper Tables 2, 3 and 5)."""
    return _ablation("radio-l-ablation", "large", _LAION)  # Table 3; Table 2 compares data sets


def radio_b() -> TrainConfig:
    """ViT-B/14 from MetaCLIP-H and DINOv2-g at 224 pixels (paper Table 4)."""
    return _ablation("radio-b", "base", _DATACOMP)  # Table 4: silent about the data


def radio_h_stage1() -> TrainConfig:
    """ViT-H/16, first half: CLIP and DINOv2 at 256 pixels (paper section 4)."""
    run = paper_run(
        "radio-h-stage1",
        vit_config("huge", grid_size=_POSITIONS),
        {name: _BEST_TEACHERS[name] for name in _SUMMARY_TEACHERS},
        (_low_resolution(),),
    )
    return run.changed(engine={"activation_checkpointing": True})  # silent; to fit


def radio_h_stage2() -> TrainConfig:
    """ViT-H/16, second half: SAM at 1024 pixels too, from the student of stage 1 (section 4)."""
    run = paper_run(
        "radio-h-stage2",
        # 5 windowed layers between two global ones: the released radio_v2; paper silent.
        vit_config("huge", grid_size=_POSITIONS, num_windowed=5),
        dict(_BEST_TEACHERS),
        (_high_resolution(),),
    )
    return run.changed(
        # "High resolution training was unstable, so we apply spectral reparametrization and a
        # weight decay of 0.02."
        student={"init_from": "runs/radio-h-stage1/student", "spectral": True},
        engine={"activation_checkpointing": True},  # silent; to fit
    )


def radio_h() -> TrainConfig:
    """ViT-H/16, both stages in one run with one cosine over 600k steps (paper section 4)."""
    return radio_h_stage2().changed(
        recipe="radio-h",
        run={"out": Path("runs/radio-h")},
        student={"init_from": None},
        stages=(_low_resolution(), _high_resolution()),
    )


def e_radio_b() -> TrainConfig:
    """E-RADIO-B from OpenCLIP-H and DINOv2-g at 224 pixels (paper 5.1)."""
    return _efficient("e-radio-b", eradio_config("eradio", window_size=[_WINDOW] * 4, **E_RADIO_B))


def e_radio_l() -> TrainConfig:
    """E-RADIO-L, as released (391M parameters in Table 1), trained as in paper 5.1."""
    return _efficient("e-radio-l", eradio_config("eradio", window_size=[_WINDOW] * 4))


def timm_network(name: str) -> TrainConfig:
    """Any network of timm, trained as those of the paper's Table 7."""
    return _efficient(f"timm:{name}", TimmConfig(name=name))


def _efficient(recipe: str, student: BackboneConfig) -> TrainConfig:
    """5.1: "no change in training hyperparameters"; 224 pixels as in Table 7."""
    step = student.resolution_step
    group = GroupConfig(
        teachers=("clip", "dino_v2"),
        batch_size=_BATCH,
        # Networks with coarser steps than 32 pixels get the nearest side that they take.
        resolutions=(max(round(224 / step), 1) * step,),
        teacher_sizes=_DINO_SIDE,
    )
    teachers = {"clip": _OPENCLIP, "dino_v2": DINO_V2}
    stages = (StageConfig(steps=_STEPS, groups=(group,)),)
    return paper_run(recipe, student, teachers, stages, _IMAGENET_21K)


def _ablation(recipe: str, preset: str, data: tuple[str, ...]) -> TrainConfig:
    """CLIP + DINOv2 (Table 2 names them) on a ViT with patches of 14 pixels."""
    group = GroupConfig(
        teachers=("clip", "dino_v2"),
        batch_size=_BATCH,
        resolutions=(224,),  # Table 5: "the student only ever trains at 224"
        teacher_sizes=_DINO_SIDE,
    )
    student = vit_config(preset, patch_size=14, grid_size=_POSITIONS)
    stages = (StageConfig(steps=_STEPS, groups=(group,)),)
    return paper_run(recipe, student, {"clip": METACLIP, "dino_v2": DINO_V2}, stages, data)


def _low_resolution() -> StageConfig:
    """The first stage: 300k steps, 32 GPUs with 32 images each."""
    group = GroupConfig(
        teachers=_SUMMARY_TEACHERS,
        batch_size=_BATCH,
        resolutions=(256,),
        teacher_sizes=_DINO_SIDE,
    )
    return StageConfig(steps=_STEPS // 2, groups=(group,))


def _high_resolution() -> StageConfig:
    """The second stage: 300k steps on 64 GPUs, "half of which" get each group.

    The paper gives 32 and 2 images a GPU, and an effective batch of 1,152; 32 x 32 + 32 x 2 are
    1,088. This follows the numbers of images a GPU.
    """
    low = GroupConfig(
        teachers=_SUMMARY_TEACHERS,
        batch_size=32 * 32,
        resolutions=(432,),  # the grid of 378 pixels at patches of 14
        teacher_sizes=_DINO_SIDE,
    )
    high = GroupConfig(
        teachers=("sam",),
        batch_size=32 * 2,
        resolutions=(1024,),
        window_sizes=(8, 16),  # Table 8 has both; section 4 is silent about the set
        window_probability=0.5,  # silent
    )
    return StageConfig(steps=_STEPS // 2, groups=(low, high), groups_per_step="all")
