"""A few lines of Python for the model card that run the ONNX file without this package, in one pass per picture."""

from __future__ import annotations

from gkd_bench.config.data import Prepare, Volumes
from gkd_bench.export.facts import INPUT, ONNX_FILE, OUTPUT, Facts

_RUN = f"session.run(['{OUTPUT}'], {{'{INPUT}': images}})[0][0]"
_SESSION = f"session = onnxruntime.InferenceSession('{ONNX_FILE}')"


def snippet(facts: Facts) -> str:
    """Python that writes a mask: of ``photo.png`` with OpenCV, of ``volume.nii.gz`` with nibabel as well."""
    lines = _of_volume(facts, facts.volumes) if facts.volumes else _of_photograph(facts, facts.photographs)
    return "\n".join(lines) + "\n"


def _of_photograph(facts: Facts, prepare: Prepare) -> list[str]:
    channel = {
        "green": "photo[..., 1].copy()  # green",
        "luminance": "cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)",
        "rgb": "cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)",
    }[prepare.channel]
    scale = 255 if len(facts.class_names) == 1 else 1
    return [
        "import cv2, numpy as np, onnxruntime",
        "photo = cv2.imread('photo.png')",
        f"factor = {facts.working.factor:.6g}  # working pixels per pixel of the photograph",
        f"image = {channel}",
        "image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)",
        *_contrast(prepare),
        _SESSION,
        "images = np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32) / 255",
        f"probability = {_RUN}  # one plane per class",
        "probability = np.stack([cv2.resize(one, photo.shape[1::-1]) for one in probability])",
        f"mask = {_decision(facts)}",
        f"cv2.imwrite('mask.png', mask.astype(np.uint8){f' * {scale}' if scale > 1 else ''})",
    ]


def _contrast(prepare: Prepare) -> list[str]:
    lines = []
    if prepare.clahe:
        clahe = f"cv2.createCLAHE({prepare.clahe.clip:g}, ({prepare.clahe.grid}, {prepare.clahe.grid}))"
        if prepare.channel == "rgb":
            lines += ["lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)"]
            lines += [
                f"lab[..., 0] = {clahe}.apply(lab[..., 0].copy())",
                "image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)",
            ]
        else:
            lines += [f"image = {clahe}.apply(image)"]
    if prepare.intensity == "zscore":  # here over the whole picture; the benchmark leaves the dark surround out
        lines += ["deviation = np.maximum(image.std((0, 1)), 1)"]
        lines += ["image = np.clip(np.rint(128 + 32 * (image - image.mean((0, 1))) / deviation), 0, 255)"]
    return lines


def _of_volume(facts: Facts, settings: Volumes) -> list[str]:
    """Rows run to the back and columns to the patient's left, as in training; the mask lies along nibabel's own axes."""
    if settings.spacing:
        size = f"[round(n * mm / {settings.spacing:g}) for n, mm in zip(volume.shape[:2], image.header.get_zooms())]"
    else:
        size = f"[round(n * {settings.size} / max(volume.shape[:2])) for n in volume.shape[:2]]"
    return [
        "import cv2, nibabel, numpy as np, onnxruntime",
        "image = nibabel.as_closest_canonical(nibabel.load('volume.nii.gz'))",
        "volume, mask = image.get_fdata(dtype=np.float32), np.zeros(image.shape, np.uint8)",
        _window(facts, settings),
        f"size = {size}",
        _SESSION,
        "for k in range(volume.shape[2]):",
        "    grey = np.clip((volume[::-1, ::-1, k].T - low) * 255 / (high - low), 0, 255)",
        "    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if size[1] < len(grey) else cv2.INTER_LINEAR)",
        "    images = np.rint(grey)[None, None].astype(np.float32) / 255",
        f"    probability = {_RUN}  # one plane per class",
        "    probability = np.stack([cv2.resize(one, volume.shape[:2]) for one in probability])",
        f"    mask[::-1, ::-1, k] = ({_decision(facts)}).T",
        "nibabel.save(nibabel.Nifti1Image(mask, image.affine), 'mask.nii.gz')",
    ]


def _window(facts: Facts, settings: Volumes) -> str:
    if facts.modality == "ct":
        return f"low, high = {settings.window.low:g}, {settings.window.high:g}  # Hounsfield units"
    if facts.modality == "mr":
        low, high = settings.percentiles.low, settings.percentiles.high
        return f"low, high = np.percentile(volume[volume > volume.min()], [{low:g}, {high:g}])"
    return "low, high = 0, 255"


def _decision(facts: Facts) -> str:
    if len(facts.class_names) == 1:
        return f"probability[0] >= {facts.threshold:g}"
    return "np.concatenate([1 - probability.sum(0, keepdims=True), probability]).argmax(0)"
