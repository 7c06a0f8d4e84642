"""The table of licences: what is known of a teacher's name, and what its files say."""

from pathlib import Path

import pytest

from radio_core.teachers import TOY_TEACHERS
from radio_core.teachers.licences import (
    LICENCES,
    UNKNOWN,
    licence_named,
    licence_of,
    stated_licence,
)
from radio_core.zoo.releases import NON_COMMERCIAL, OPEN_MODEL


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (TOY_TEACHERS, "Apache-2.0"),
        (
            (
                "open_clip:ViT-L-14/openai",
                "hf:openai/clip-vit-large-patch14",
                "timm:vit_large_patch14_clip_224.openai",
                "open_clip:ViT-H-14/laion2b_s32b_b79k",
                "open_clip:ViT-L-14/datacomp_xl_s13b_b90k",
                "open_clip:hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
                "timm:timm/vit_huge_patch14_clip_224.laion2b",
            ),
            "MIT",
        ),
        (
            (
                "open_clip:ViT-H-14-378-quickgelu/dfn5b",
                "open_clip:hf-hub:apple/DFN5B-CLIP-ViT-H-14-378",
                "timm:vit_huge_patch14_clip_378.dfn5b",
            ),
            "apple-amlr",
        ),
        (
            (
                "open_clip:ViT-H-14/metaclip_fullcc",
                "hf:facebook/metaclip-h14-fullcc2.5b",
                "timm:vit_huge_patch14_clip_224.metaclip_2pt5b",
            ),
            "CC-BY-NC-4.0",
        ),
        (
            (
                "open_clip:ViT-SO400M-14-SigLIP-384/webli",
                "open_clip:ViT-gopt-16-SigLIP2-384/webli",
                "open_clip:hf-hub:timm/ViT-B-16-SigLIP2",
                "hf:google/siglip2-so400m-patch16-384",
                "dinov2:facebook/dinov2-with-registers-giant",
                "dinov2:vit_giant_patch14_reg4_dinov2.lvd142m",
                "hf:facebook/dinov2-base@main",
                "sam:vit_h:/models/sam_vit_h_4b8939.pth",
                "sam2:facebook/sam2.1-hiera-large",
            ),
            "Apache-2.0",
        ),
        (
            (
                "dinov3:facebook/dinov3-vith16plus-pretrain-lvd1689m",
                "dinov3:vit_large_patch16_dinov3.lvd1689m",
                "dinov3:timm/convnext_tiny.dinov3_lvd1689m",
                "timm:vit_large_patch16_dinov3.sat493m",
            ),
            "DINOv3 License",
        ),
        (("sam3:facebook/sam3",), "SAM License"),
        (
            (
                "open_clip:EVA02-L-14/merged2b_s4b_b131k",
                "open_clip:ViT-H-14-CLIPA-336/laion2b",
                "open_clip:local-dir:/models/openai",
                "hf:somebody/dinov2-finetuned",
                "hf:/models/facebook/dinov3-vitl16",
                "sam:/models/vit_h",
            ),
            UNKNOWN,
        ),
    ],
)
def test_what_is_known_of_a_source(sources: tuple[str, ...], name: str) -> None:
    assert {source: licence_of(source).name for source in sources} == dict.fromkeys(sources, name)


def test_what_the_files_say_counts_where_the_name_is_not_known() -> None:
    assert licence_of("hf:/a/b", "apache-2.0").name == "Apache-2.0"
    assert licence_of("hf:openai/clip-vit-base-patch32", "apache-2.0").name == "MIT"
    assert licence_of("radio:x", NON_COMMERCIAL).terms == "non-commercial"
    assert licence_of("radio:x", OPEN_MODEL).terms == "custom"
    assert licence_of("radio:x", "").name == UNKNOWN


def test_every_licence_says_what_it_means_in_one_sentence() -> None:
    for name, licence in LICENCES.items():
        assert licence_named(name) is licence
        assert licence.meaning.endswith(".")
        assert ". " not in licence.meaning
    other = licence_named("seer-license")
    assert (other.name, other.terms) == ("seer-license", "custom")
    assert "read its text" in other.meaning
    assert licence_named("dinov3-license").name == "DINOv3 License"


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("---\nlicense: apache-2.0\ntags:\n- vision\n---\n# Model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: sam-license\n---\n", "sam-license"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: [1, 2]\n---\n", None),
        ("# Model\nlicense: mit\n", None),
        ("---\nlicense: !!python/object/apply:os.mkdir [x]\n---\n", None),
        ("---\n- a\n---\n", None),
        (None, None),
    ],
)
def test_the_model_card_of_a_folder(text: str | None, stated: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert stated_licence(tmp_path) == stated
