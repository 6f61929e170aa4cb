from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gkd_bench.config.schema import Clahe, Prepare, Scale
from gkd_bench.data import prepare as prepare_module
from gkd_bench.data.cache import NATIVE, WORKING, PreparedDomain, TestImages, open_prepared
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.check import vessel_width
from gkd_bench.data.domain import RawPixels
from gkd_bench.data.prepare import fingerprint, prepare_domain, prepare_image, scale_factor
from gkd_bench.errors import DataError, StoreError

PLAIN = Prepare(clahe=None, scale=Scale(rule="none"))


def copy_of(domain: PreparedDomain, cache: Path) -> Path:
    """A private copy of a prepared domain, to be damaged."""
    shutil.copytree(domain.folder, cache / domain.manifest.domain / domain.manifest.fingerprint)
    return cache


# ---------------------------------------------------------------- what is prepared


def test_plain_settings_keep_the_green_channel_and_masks_as_they_are(tmp_path: Path) -> None:
    domain = prepare_domain("phantom_warm", Catalogue(None, PLAIN), tmp_path)
    reader = open_reader("phantom_warm")
    images = domain.source_splits().train
    for i, raw in enumerate(reader.images()[:6]):
        rgb, label, fov = reader.read(raw)
        assert images.name(i) == raw.name
        assert np.array_equal(images.image(i), rgb[..., 1])
        assert np.array_equal(images.label(i), label)
        assert np.array_equal(images.fov(i), fov)


def test_luminance_is_the_weighted_sum_of_channels() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    mask = np.ones((8, 9), np.bool_)
    settings = PLAIN.model_copy(update={"channel": "luminance"})
    grey, _, _ = prepare_image(RawPixels(rgb, mask, mask), settings, (8, 9))
    assert np.abs(grey.astype(int) - cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)).max() <= 1


def test_clahe_raises_local_contrast() -> None:
    reader = open_reader("phantom_dim")
    pixels = reader.read(reader.images()[0])
    size = pixels.label.shape
    plain, _, _ = prepare_image(pixels, PLAIN, size)
    equalised, _, _ = prepare_image(pixels, PLAIN.model_copy(update={"clahe": Clahe()}), size)
    assert equalised[pixels.fov].std() > 1.3 * plain[pixels.fov].std()


def test_zscore_puts_the_field_of_view_at_128_plus_32_deviations() -> None:
    reader = open_reader("phantom_dim")
    pixels = reader.read(reader.images()[0])
    grey, _, fov = prepare_image(pixels, PLAIN.model_copy(update={"intensity": "zscore"}), pixels.label.shape)
    inside = grey[fov > 0].astype(float)
    assert inside.mean() == pytest.approx(128, abs=1)
    assert inside.std() == pytest.approx(32, abs=2)  # the optic disc is clipped at four deviations


def test_label_pixel_is_vessel_where_half_of_its_area_is() -> None:
    label = np.zeros((8, 8), np.bool_)
    label[:, 2] = True  # half of the second column of pairs
    label[0, 6] = True  # a quarter of one pair
    pixels = RawPixels(np.zeros((8, 8, 3), np.uint8), label, np.ones((8, 8), np.bool_))
    _, half, _ = prepare_image(pixels, PLAIN, (4, 4))
    expected = np.zeros((4, 4), np.uint8)
    expected[:, 1] = 1
    assert np.array_equal(half, expected)


def test_arrays_are_padded_but_images_have_their_own_size(
    tmp_path: Path, layout: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layout("hrf")
    reader = open_reader("hrf", root)
    for path in reader.images()[0].files():
        with Image.open(path) as picture:
            enlarged = picture.resize((90, 78), Image.Resampling.NEAREST)
        enlarged.save(path, "JPEG" if path.suffix.lower() == ".jpg" else "TIFF")
    domain = prepare_domain("hrf", Catalogue(root, PLAIN), tmp_path / "cache")
    train = domain.source_splits().train
    assert train.image(0).shape == train.native_label(0).shape == (78, 90)
    assert train.image(1).shape == train.fov(1).shape == (52, 60)
    assert np.load(domain.folder / "images.npy").shape == (45, 78, 90)


def test_native_label_keeps_the_data_sets_own_pixels(phantom: PreparedDomain) -> None:
    reader = open_reader("phantom_clear")
    raw = reader.read(reader.images()[0])
    train = phantom.source_splits().train
    assert np.array_equal(train.native_label(0), raw.label)
    assert np.array_equal(train.native_fov(0), raw.fov)
    assert train.image(0).shape == train.size(0) != raw.label.shape


# ---------------------------------------------------------------- the scale rule


def test_vessel_widths_of_all_domains_match_after_preparation(tmp_path: Path) -> None:
    for name in ("phantom_clear", "phantom_dim", "phantom_warm"):
        images = prepare_domain(name, Catalogue(None, Prepare(scale=Scale(value=5.0))), tmp_path).source_splits().train
        widths = [vessel_width(images.label(i).astype(np.bool_)) for i in range(len(images))]
        assert np.mean(widths) == pytest.approx(5.0, rel=0.06)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (Scale(), 4.0 / (0.00634 * 919)),
        (Scale(rule="angular"), 30.0 * 30.0 / 919),
        (Scale(rule="angular", value=15.0), 15.0 * 30.0 / 919),
        (Scale(rule="fov_width"), 512 / 919),
        (Scale(rule="none"), 1.0),
    ],
)
def test_scale_rules_give_their_documented_factor(scale: Scale, expected: float) -> None:
    assert scale_factor(scale, open_reader("chase_db1").card, 919) == pytest.approx(expected)


def test_scale_does_not_depend_on_labels(tmp_path: Path, layout: Callable[..., Path]) -> None:
    root = layout("hrf")
    settings = Prepare(scale=Scale(value=0.2))
    before = prepare_domain("hrf", Catalogue(root, settings), tmp_path / "a").manifest
    for raw in open_reader("hrf", root).images():
        assert raw.label is not None
        with Image.open(raw.label) as picture:
            thick = cv2.dilate(np.asarray(picture), np.ones((7, 7), np.uint8))
        Image.fromarray(thick).save(raw.label)
    after = prepare_domain("hrf", Catalogue(root, settings), tmp_path / "a").manifest
    assert after.fingerprint != before.fingerprint
    assert after.factor == before.factor


# ---------------------------------------------------------------- fingerprints


def test_fingerprint_is_that_of_the_prepared_domain_and_names_it(phantom: PreparedDomain) -> None:
    key = fingerprint("phantom_clear", Catalogue())
    assert phantom.reference == f"phantom_clear@{key}"
    assert phantom.folder.name == key


def test_every_setting_changes_the_fingerprint() -> None:
    variants = [
        Prepare(),
        Prepare(channel="luminance"),
        Prepare(clahe=None),
        Prepare(clahe=Clahe(clip=3.0)),
        Prepare(intensity="zscore"),
        Prepare(scale=Scale(value=5.0)),
        Prepare(scale=Scale(rule="angular")),
    ]
    assert len({fingerprint("phantom_clear", Catalogue(None, settings)) for settings in variants}) == len(variants)


def test_content_splits_and_code_version_change_the_fingerprint_and_place_does_not(
    tmp_path: Path, layout: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layout("drive")
    first = fingerprint("drive", Catalogue(root))
    shutil.copytree(root / "DRIVE", tmp_path / "elsewhere" / "DRIVE")
    assert fingerprint("drive", Catalogue(tmp_path / "elsewhere")) == first
    raw = open_reader("drive", root).images()[0]
    assert raw.label is not None and raw.fov is not None
    shutil.copy(raw.fov, raw.label)
    assert fingerprint("drive", Catalogue(root)) != first
    monkeypatch.setattr(prepare_module, "PREPARE_VERSION", 99)
    assert fingerprint("drive", Catalogue(tmp_path / "elsewhere")) != first


def test_memo_of_digests_survives_damage_and_notices_changed_files(tmp_path: Path, layout: Callable[..., Path]) -> None:
    root, memo = layout("drive"), tmp_path / "memo" / "digests.json"
    first = fingerprint("drive", Catalogue(root), memo)
    assert memo.is_file()
    assert fingerprint("drive", Catalogue(root), memo) == first
    memo.write_text("{torn")
    assert fingerprint("drive", Catalogue(root), memo) == first
    label = open_reader("drive", root).images()[0].label
    assert label is not None
    label.write_bytes(label.read_bytes() + b" ")
    assert fingerprint("drive", Catalogue(root), memo) != first


def test_fingerprint_without_a_memo_writes_nothing(
    tmp_path: Path, layout: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layout("drive")
    monkeypatch.chdir(tmp_path)

    def tree() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}

    before = tree()
    with monkeypatch.context() as guarded:
        guarded.setattr(Path, "mkdir", None)
        guarded.setattr(os, "replace", None)
        key = fingerprint("drive", Catalogue(root, PLAIN))
    assert tree() == before
    assert prepare_domain("drive", Catalogue(root, PLAIN), tmp_path / "cache").manifest.fingerprint == key


# ---------------------------------------------------------------- the cache


def test_second_preparation_touches_nothing(tmp_path: Path) -> None:
    first = prepare_domain("phantom_warm", Catalogue(), tmp_path)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = prepare_domain("phantom_warm", Catalogue(), tmp_path)
    assert second.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in second.folder.iterdir()} == times


def test_left_overs_of_a_killed_preparation_are_cleared(tmp_path: Path) -> None:
    key = fingerprint("phantom_warm", Catalogue())
    left_over = tmp_path / "phantom_warm" / f".{key}.dead"
    left_over.mkdir(parents=True)
    (left_over / "images.npy").write_bytes(b"half")
    domain = prepare_domain("phantom_warm", Catalogue(), tmp_path)
    assert not left_over.exists()
    assert {path.name for path in domain.folder.iterdir()} == {"manifest.json", *(f"{n}.npy" for n in WORKING + NATIVE)}


def test_failed_preparation_leaves_no_folder_and_lists_every_torn_file(
    tmp_path: Path, layout: Callable[..., Path]
) -> None:
    root = layout("chase_db1")
    for raw in open_reader("chase_db1", root).images()[5:8]:
        assert raw.image is not None
        raw.image.write_bytes(raw.image.read_bytes()[:-400])
    with pytest.raises(DataError) as error:
        prepare_domain("chase_db1", Catalogue(root), tmp_path / "cache")
    assert len(error.value.problems) == 3
    assert not [path for path in (tmp_path / "cache" / "chase_db1").iterdir() if path.is_dir()]


PREPARE_AND_TELL = """
import sys
from pathlib import Path
from gkd_bench.data import prepare
from gkd_bench.data.catalogue import Catalogue
build = prepare._build
prepare._build = lambda *arguments: (print("built"), build(*arguments))
print(prepare.prepare_domain("phantom_dim", Catalogue(), Path(sys.argv[1])).reference)
"""


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE_AND_TELL, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    words = [word for process in processes for word in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert words.count("built") == 1
    assert len(set(words)) == 2


def test_changed_array_fails_verification_only(phantom: PreparedDomain, tmp_path: Path) -> None:
    cache = copy_of(phantom, tmp_path)
    path = cache / "phantom_clear" / phantom.manifest.fingerprint / "labels.npy"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    open_prepared(cache, "phantom_clear", phantom.manifest.fingerprint)
    with pytest.raises(StoreError, match=r"labels\.npy does not match its checksum"):
        open_prepared(cache, "phantom_clear", phantom.manifest.fingerprint, verify=True)
    assert prepare_domain("phantom_clear", Catalogue(), cache) == open_prepared(
        cache, "phantom_clear", phantom.manifest.fingerprint
    )
    with pytest.raises(StoreError, match=r"labels\.npy does not match its checksum"):
        prepare_domain("phantom_clear", Catalogue(), cache, verify=True)


@pytest.mark.parametrize("damage", ["no folder", "torn manifest", "no array"])
def test_damaged_cache_is_a_store_error_that_says_what_to_do(
    damage: str, phantom: PreparedDomain, tmp_path: Path
) -> None:
    key = phantom.manifest.fingerprint
    if damage != "no folder":
        folder = copy_of(phantom, tmp_path) / "phantom_clear" / key
        if damage == "torn manifest":
            (folder / "manifest.json").write_text('{"domain": ')
        else:
            (folder / "fov.npy").unlink()
    with pytest.raises(StoreError, match="run the sweep"):
        open_prepared(tmp_path, "phantom_clear", key)


def test_torn_array_is_a_store_error(phantom: PreparedDomain, tmp_path: Path) -> None:
    cache = copy_of(phantom, tmp_path)
    path = cache / "phantom_clear" / phantom.manifest.fingerprint / "images.npy"
    path.write_bytes(path.read_bytes()[:4096])
    domain = open_prepared(cache, "phantom_clear", phantom.manifest.fingerprint)
    with pytest.raises(StoreError, match=r"images\.npy"):
        domain.source_splits()


def test_verification_accepts_what_preparation_wrote(phantom: PreparedDomain) -> None:
    cache = phantom.folder.parent.parent
    assert open_prepared(cache, "phantom_clear", phantom.manifest.fingerprint, verify=True) == phantom


# ---------------------------------------------------------------- splits


def test_splits_are_disjoint_by_subject_and_complete(phantom: PreparedDomain) -> None:
    source, test = phantom.source_splits(), phantom.test_split().images
    subjects = [{split.subject(i) for i in range(len(split))} for split in (source.train, source.val, test)]
    assert [len(s) for s in subjects] == [6, 2, 4]
    assert len(set.union(*subjects)) == 12


def test_test_images_are_a_type_of_their_own(phantom: PreparedDomain) -> None:
    source, test = phantom.source_splits(), phantom.test_split()
    assert isinstance(test.images, TestImages)
    assert not isinstance(source.train, TestImages)
    assert not isinstance(test.images, type(source.train))
