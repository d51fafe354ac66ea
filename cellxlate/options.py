"""The options that errors and warnings name: as Python, the command line and the panels call them."""

from cellxlate.errors import Option, Words

ADAPT = Option("adapt_s=", "--adapt", "Adapt to this image")
ADAPT_SECONDS = Option("seconds=", "--adapt", "Adapt for (s)")
ATTENTION = Option("attention=", "--attention")
ATTENTION_CHANNEL = Option("attention_channel=", "--attention-channel", "Gate")
ATTENTION_FROM = Option("attention_from=", "--attention-from", "Gate")
AUTHOR = Option("authors=", "--author")
AXES_OPTION = Option("axes=", "--axes", "Axes")
BASE = Option("base=", "--from")
BASELINE = Option("baseline=", "--baseline")
BESIDE = Option("beside=", "--beside")
CHANNEL = Option("channel=", "--channel")
CHANNELS = Option("channels=", "--channel", "Channel")
COLOR = Option("color=", "--color")
CONFIDENCE = Option("confidence=True", "--confidence")
CONTEXT = Option("context=", "--context", "Neighbours", (("z", "in depth (z)"), ("t", "in time (t)")))
DEVICE = Option("device=", "--device", "Device")
ENGINE = Option("engine=", "--engine", "Engine")
ENHANCED = Option("enhanced=", "--enhanced")
FORMAT = Option("format=", "--format")
GUIDE = Option("guide=", "--guide", "Guide", (("masks", "painted cells"),))
HALO = Option("halo_px=", "")
IMAGE = Option("image=", "--image")
HAZE = Option("haze=", "--haze")
INCOMPLETE = Option("incomplete=True", "--incomplete")
INTENSITY = Option("intensity=", "--intensity", "Intensity", (("source", "as in the image"),))
LAYOUT = Option("layout=", "--layout")
LEVELS_FROM = Option("levels_from=", "--levels-from")
LICENCE = Option("licence=", "--licence")
MASK = Option("", "--mask")
MASKS = Option("masks=", "--masks", "Painted")
MODEL = Option("model=", "-m", "Model")
NOISE = Option("", "--noise")
NO_ATTENTION = Option("attention=False", "--no-attention")
OUTPUT = Option("output=", "-o", "File")
OUTPUT_DIR = Option("output_dir=", "--output-dir", "Output folder")
OVERWRITE = Option("overwrite=True", "--overwrite", "Replace existing files")
PRECISION = Option("precision=", "--precision")
PRESET = Option("preset=", "--preset", "Preset")
RESTARTS = Option("restarts=", "--restarts")
RESUME = Option("resume=True", "--resume")
SCALE = Option("scale=", "--scale")
SCHEDULER = Option("scheduler=", "--scheduler")
SEED = Option("seed=", "--seed")
SEGMENT = Option("segment=", "--segment")
SETTINGS = Option("settings=", "--settings")
SLURM = Option("", "--slurm")
SOURCE = Option("source=", "--source", "Source")
STILL = Option("still=True", "--still")
STRUCTURE = Option("kind=", "--structure")
TARGET = Option("target=", "--target", "Target")
THRESHOLD = Option("threshold=", "--threshold", "Threshold")
TILE = Option("tile_px=", "--tile")
TORCHSCRIPT = Option("torchscript=True", "--run-torchscript")
TO_CARD = Option("", "--to-card")
TRAINED = Option("output=", "-o", "Model")
TRAIN_RESUME = Option("resume=True", "--resume", "Resume")
TRUTH = Option("", "--truth")
WORKERS = Option("workers=", "--workers")

TO_REPLACE = ("give ", OVERWRITE, " to replace it")
TO_RENAME = ("choose another name with ", OUTPUT)
TO_REPLACE_OR_RENAME = (*TO_REPLACE, " or choose another ", OUTPUT, " or ", OUTPUT_DIR)
TO_GO_ON = ("give ", RESUME, " to go on, or ", OVERWRITE)
"""Remedies where something lies in the way of an output."""

TO_REPLACE_OR_GO_ON = Words(
    "give overwrite=True to replace it, or resume=True", "give --overwrite to replace it",
    "give 'Replace existing files' to replace it",
)  # fmt: skip
ANY_DEVICE = Words("leave out device=", "leave out --device", "set Device to 'auto'")
NOT_RESUMED = Words("leave out resume=True", "leave out --resume", "press Train")
OTHER_FOLDER = Words("another output_dir=", "another --output-dir", "another folder")
OTHER_SEED = Words(
    "another seed= (restarts=N tries them)", "another --seed (--restarts N tries them)", "other images or more of them"
)
STACKS_FIRST = Words(
    "that is the name of a file", "that is a file: name all stacks before --channel", "that is the name of a file"
)
WITH_MASKS = Words("with a few masks=", "with a few --masks", "with Guide 'painted cells'")
TO_ADAPT = Words(
    "adapt to it: cellxlate.adapt", "adapt to it: --adapt (cellxlate.adapt in Python)", "press 'Adapt to this image'"
)
TO_TRAIN = Words(
    "cellxlate.train",
    "cellxlate train --source YOUR_IMAGES --target CLEAR_IMAGES -o MODEL (cellxlate.train in Python)",
    "the panel 'Train translator'",
)
NEAREST_MODEL = Words(
    "leave the model out to take the nearest of those shipped (model='auto')",
    "leave the model out to take the nearest of those shipped (-m auto)",
    "Model 'auto' takes the nearest",
)
"""Deeds that are another one in each."""
