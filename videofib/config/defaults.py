"""The configuration: every key with its default and all that it accepts.

Key names are those of PySlowFast and TimeSformer where they have one; ours stand beside them. ``docs/config.md`` is
made from this file. A key that nothing reads is a defect, and a test looks for it; another test compares each list of
choices with what the code offers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from videofib.config.declare import Key, Section, integer, list_of, number, one_of, switch, text
from videofib.config.mixing import Options, mixers_of, options_of_mixers

_C = Section("Output, random seed, processes and machines.")
_C.OUTPUT_DIR = text("runs/default", about="folder of the run: checkpoints, logs, results and report")
_C.RNG_SEED = integer(0, least=0, about="seed of weights, order of videos, clips, augmentation and dropout")
_C.LOG_PERIOD = integer(10, above=0, unit="steps", about="steps between two json_stats lines of training")
_C.NUM_GPUS = integer(1, above=0, about="processes on this machine: one for each GPU, or CPU processes without a GPU")
_C.NUM_SHARDS = integer(1, above=0, about="number of machines")
_C.SHARD_ID = integer(0, least=0, about="index of this machine, from 0")
_C.INIT_METHOD = text("tcp://localhost:9999", about="address at which several machines meet; unused on one machine")
_C.GLOBAL_BATCH_SIZE = integer(
    0, above=0, unit="videos", off="as TRAIN.BATCH_SIZE", about="videos in an optimizer step; gradients accumulate"
)

_C.TRAIN = Section("Training.")
_C.TRAIN.ENABLE = switch(True, about="whether videofib run trains")
_C.TRAIN.BATCH_SIZE = integer(
    8, above=0, unit="videos", about="videos in a forward pass, over all processes; each gives AUG.NUM_SAMPLE clips"
)
_C.TRAIN.EVAL_PERIOD = integer(1, above=0, unit="epochs", off="no validation", about="epochs between two validations")
_C.TRAIN.PATIENCE = integer(
    0,
    above=0,
    unit="validations",
    off="train all epochs",
    about="training ends after so many validations in a row without a better CHECKPOINT.METRIC",
)
_C.TRAIN.CHECKPOINT_PERIOD = integer(1, above=0, unit="epochs", about="epochs between two checkpoints")
_C.TRAIN.CHECKPOINT_STEPS = integer(
    0, above=0, unit="batches", off="none within an epoch", about="batches between two checkpoints within an epoch"
)
_C.TRAIN.AUTO_RESUME = switch(True, about="resume from the newest checkpoint in OUTPUT_DIR, if there is one")
_C.TRAIN.CHECKPOINT_FILE_PATH = text(
    off="random weights", about="weights to start from: ours, TimeSformer's, Hugging Face's, timm's or VideoMAE's"
)
_C.TRAIN.CHECKPOINT_PART = text(
    off="the average, or the only one",
    about="which model of CHECKPOINT_FILE_PATH, such as teacher, if it holds several",
)
_C.TRAIN.STRATEGY = one_of(
    "ddp", "fsdp", about="ddp: each process holds all weights; fsdp: weights and optimizer state are sharded"
)
_C.TRAIN.SHARDED_CHECKPOINTS = switch(
    False, about="with fsdp: write each checkpoint as a folder (.dcp), a part by each process, not as one file"
)
_C.TRAIN.MIXED_PRECISION = switch(False, about="compute in 16 bits where that is safe")
_C.TRAIN.MIXED_PRECISION_DTYPE = one_of("bf16", "fp16", about="16-bit type; fp16 is for GPUs without bf16")
_C.TRAIN.CLASS_WEIGHTS = one_of(
    *("none", "balanced", "listed"),
    off="all count the same",
    about="what a class counts in the loss: the inverse of its training videos, or LISTED_WEIGHTS; with bce_logit, its "
    "positive labels",
)
_C.TRAIN.LISTED_WEIGHTS = list_of(
    number(least=0), [], off="none", about="weight of each class, in the order of labels, with CLASS_WEIGHTS listed"
)
_C.TRAIN.FREEZE = list_of(
    text(), [], off="all parameters learn", about="name patterns of frozen parameters, such as ['blocks.[0-5].*']"
)
_C.TRAIN.LINEAR_PROBE = switch(False, about="train the classifier alone, on features without dropout")
_C.TRAIN.COMPILE = switch(False, about="compile the model (torch.compile); the first steps then take minutes")
_C.TRAIN.CONTEXT_PARALLEL = integer(
    1, above=0, about="processes that share the tokens of each clip, for clips too long for one; also in testing"
)
_C.TRAIN.EMA_DECAY = number(
    above=0, below=1, off="no moving average", about="decay of a moving average of the weights, which is then validated"
)

_C.CHECKPOINT = Section("Which checkpoints are kept.")
_C.CHECKPOINT.KEEP = integer(
    0, above=0, off="all are kept", about="how many of the newest epochs' checkpoints are kept, besides the best"
)
_C.CHECKPOINT.METRIC = one_of(
    *("auto", "top1_acc", "top5_acc", "mean_class_acc", "mAP", "none"),
    off="no best checkpoint",
    about="figure of validation by which a checkpoint is the best; auto: top1_acc, or mAP with bce_logit",
)

_C.TEST = Section("Multi-view testing.")
_C.TEST.ENABLE = switch(True, about="whether videofib run tests")
_C.TEST.BATCH_SIZE = integer(8, above=0, unit="views", about="views in a forward pass, over all processes")
_C.TEST.NUM_ENSEMBLE_VIEWS = integer(10, above=0, unit="clips", about="temporal clips of each video")
_C.TEST.NUM_SPATIAL_CROPS = one_of(1, 3, default=3, about="crops of each clip: the centre; or left, centre and right")
_C.TEST.VIEW_STARTS = one_of(
    *("spread", "published"),
    about="where temporal clips start: from the first frame to the last, one in the middle; or as in the code of "
    "TimeSformer and PySlowFast, one at frame 0. Validation takes the middle clip in any case",
)
_C.TEST.CHECKPOINT_FILE_PATH = text(
    off="the newest in OUTPUT_DIR",
    about="weights to test, of any kind as in TRAIN; best: the best checkpoint in OUTPUT_DIR",
)
_C.TEST.CHECKPOINT_PART = text(
    off="the average, or the only one", about="which model of the checkpoint, such as model_state, if it holds several"
)
_C.TEST.MIXED_PRECISION = switch(False, about="compute in 16 bits where that is safe; validation does as TRAIN does")
_C.TEST.MIXED_PRECISION_DTYPE = one_of("bf16", "fp16", about="16-bit type; fp16 is for GPUs without bf16")
_C.TEST.COMPILE = switch(False, about="compile the model (torch.compile); the first views then take minutes")
_C.TEST.ENSEMBLE_LOGITS = switch(False, about="average raw logits, as TimeSformer's own tool does, not softmax scores")
_C.TEST.RESUME = switch(True, about="resume a killed test if weights, settings and videos are the same")
_C.TEST.SAVE_SECONDS = number(
    30, least=0, unit="seconds", about="time between two saves; a killed test repeats at most this much"
)
_C.TEST.UNREADABLE = one_of("wrong", "exclude", about="count a video that cannot be decoded as wrong, or exclude it")

_C.DATA = Section("Videos and clips.")
_C.DATA.PATH_TO_DATA_DIR = text(
    off="the working directory",
    about="folder or URL of lists (train.csv ...), of train/CLASS/*.mp4 or *.jpg, or of shards",
)
_C.DATA.PATH_PREFIX = text(off="none", about="folder that relative paths in the lists start from")
_C.DATA.PATH_LABEL_SEPARATOR = text(" ", about=r"text between path and label in the lists; `\t` is a tab")
_C.DATA.SEGMENTS = one_of(
    *("none", "seconds", "frames"),
    about="unit of start and end in lists whose lines are `path start end label`; none: lines have no segments, unless "
    "a header names them",
)
_C.DATA.FRAME_COUNTS = switch(
    False,
    about="whether rows of the lists are `folder num_frames label`, as TSN's and mmaction's lists of frames",
)
_C.DATA.FRAME_PATTERN = text(
    off="all pictures, one numbered series",
    about="which files of a folder are frames: `img_%05d.jpg`, or `img_*.jpg` where numbers are left out",
)
_C.DATA.FRAME_RATE = number(
    above=0, unit="frames/s", off="as TARGET_FPS", about="frame rate of videos that are folders of frames"
)
_C.DATA.DECODING_BACKEND = one_of(
    *("auto", "decord", "pyav", "torchcodec"),
    about="decoder; auto: PyAV that starts at keyframes and checks each frame; pyav: PyAV from the first frame",
)
_C.DATA.READ_SHORT_SIDE = integer(
    0, above=0, unit="pixels", off="full size", about="short side to which larger videos are scaled while they are read"
)
_C.DATA.READ_GIB = number(
    1,
    least=0,
    unit="GiB",
    off="no limit",
    about="memory that the frames of one read may take; clips of a video that take more together are read one by one",
)
_C.DATA.NUM_FRAMES = integer(8, above=0, unit="frames", about="frames of a clip")
_C.DATA.SAMPLING = one_of(
    "dense", "uniform", about="frames SAMPLING_RATE apart, or one of each of NUM_FRAMES segments of the video (TSN)"
)
_C.DATA.SAMPLING_RATE = integer(
    32, above=0, unit="frames", about="distance of neighbouring frames of a clip, at TARGET_FPS"
)
_C.DATA.TARGET_FPS = number(30, above=0, unit="frames/s", about="frame rate that SAMPLING_RATE refers to")
_C.DATA.MEAN = list_of(number(), [0.45] * 3, length=3, about="mean of red, green and blue, in a range of 0 to 1")
_C.DATA.STD = list_of(number(above=0), [0.225] * 3, length=3, about="standard deviation of red, green and blue")
_C.DATA.TRAIN_JITTER_SCALES = list_of(
    *(integer(above=0), [256, 320]),
    length=2,
    ascending=True,
    unit="pixels",
    about="range of the short side to which a training clip is scaled before it is cropped",
)
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = list_of(
    *(number(above=0, most=1), []),
    length=2,
    ascending=True,
    off="as TRAIN_JITTER_SCALES",
    about="range of the fraction of the area that a training crop covers, such as [0.08, 1.0]",
)
_C.DATA.TRAIN_JITTER_ASPECT_RELATIVE = list_of(
    *(number(above=0), []),
    length=2,
    ascending=True,
    off="as TRAIN_JITTER_SCALES",
    about="range of width over height of such a crop, for example [0.75, 1.3333]",
)
_C.DATA.TRAIN_CROP_SIZE = integer(224, above=0, unit="pixels", about="side of a training clip")
_C.DATA.TEST_CROP_SIZE = integer(224, above=0, unit="pixels", about="side of a view in validation and testing")
_C.DATA.RANDOM_FLIP = switch(True, about="mirror half of the training clips; set False where left and right differ")
_C.DATA.ENSEMBLE_METHOD = one_of("sum", "max", about="score of a video: mean (sum) or maximum over its views")

_C.AUG = Section("Augmentation of training clips.")
_C.AUG.NUM_SAMPLE = integer(
    1, above=0, about="clips of a training video, augmented independently; also with ENABLE False"
)
_C.AUG.ENABLE = switch(False, about="apply COLOR_JITTER, AA_TYPE and random erasing")
_C.AUG.COLOR_JITTER = number(
    above=0, off="none", about="strength of changes of brightness, contrast and saturation; also with AA_TYPE"
)
_C.AUG.AA_TYPE = text(
    "rand-m7-n2", off="none", about="rand-mM-nN (RandAugment, magnitude M of 10, N operations), trivial or augmix"
)
_C.AUG.RE_PROB = number(0.25, above=0, most=1, off="none", about="probability of random erasing")
_C.AUG.RE_MODE = one_of(
    "pixel", "const", "rand", about="what erased boxes show: noise (pixel), the mean colour (const) or a random colour"
)
_C.AUG.RE_COUNT = integer(1, above=0, about="largest number of boxes erased in a clip")

_C.MIXUP = Section("Mixup, cutmix and label smoothing.")
_C.MIXUP.ENABLE = switch(False, about="mix the clips of a batch, and their labels, pairwise")
_C.MIXUP.ALPHA = number(0.8, above=0, off="no mixup", about="mixup draws its weight from Beta(ALPHA, ALPHA)")
_C.MIXUP.CUTMIX_ALPHA = number(1, above=0, off="no cutmix", about="cutmix draws its area from Beta(ALPHA, ALPHA)")
_C.MIXUP.PROB = number(1, least=0, most=1, about="probability that a batch is mixed")
_C.MIXUP.SWITCH_PROB = number(0.5, least=0, most=1, about="probability of cutmix, where both are on")
_C.MIXUP.LABEL_SMOOTH_VALUE = number(above=0, below=1, off="none", about="label smoothing, also with ENABLE False")

_C.DISTILL = Section("Distillation: learning from a teacher's scores (arXiv 1503.02531).")
_C.DISTILL.CONFIG = text(off="no teacher", about="config file of the teacher, such as config.yaml in its OUTPUT_DIR")
_C.DISTILL.CHECKPOINT = text(off="no teacher", about="weights of the teacher, as TRAIN.CHECKPOINT_FILE_PATH")
_C.DISTILL.CHECKPOINT_PART = text(
    off="the average, or the only one", about="which model of CHECKPOINT, such as teacher, if it holds several"
)
_C.DISTILL.ALPHA = number(0.5, above=0, most=1, about="weight of the teacher's loss; the labels' loss has 1 - ALPHA")
_C.DISTILL.TEMPERATURE = number(4, above=0, about="divisor of both models' logits; larger lets small scores count more")

_C.MULTIGRID = Section("Early epochs on smaller clips in larger batches (arXiv 1912.00998).")
_C.MULTIGRID.LONG_CYCLE = switch(False, about="train TimeSformer this way; learning rates grow with the batches")
_C.MULTIGRID.LONG_CYCLE_FACTORS = list_of(
    list_of(number(above=0, most=1), [1, 1], length=2),
    [[0.25, 0.5**0.5], [0.5, 0.5**0.5], [0.5, 1], [1, 1]],
    about="stages of equally many epochs: factors of NUM_FRAMES and of TRAIN_CROP_SIZE",
)

_C.DATA_LOADER = Section("How videos are read.")
_C.DATA_LOADER.NUM_WORKERS = integer(2, above=0, off="read in the process itself", about="data workers of each process")
_C.DATA_LOADER.SAMPLER = one_of(
    *("shuffle", "class_balanced", "length_bucketed"),
    about="order of training videos: random, each class equally often, or videos of similar length in a batch",
)
_C.DATA_LOADER.SHARD_WINDOW = integer(
    0, above=0, unit="shards", off="all shards", about="shards whose videos are shuffled together"
)
_C.DATA_LOADER.TIME_LIMIT = number(
    60, above=0, unit="seconds", off="no limit", about="longest wait for a video; after the second one it is skipped"
)
_C.DATA_LOADER.PIN_MEMORY = switch(True, about="copy batches to the GPU from pinned memory; no effect without a GPU")

_C.REPORT = Section("The report of a run.")
_C.REPORT.ENABLE = switch(True, about="write OUTPUT_DIR/report.html after training and after testing")
_C.REPORT.NUM_VIDEOS = integer(
    6, above=0, unit="videos", off="no pictures", about="most confident mistakes whose frames the report shows"
)
_C.REPORT.EXPLAIN = switch(
    False,
    about="after a test, also draw what the model looked at in these: attention rollout, or Grad-CAM of baselines",
)

_C.TENSORBOARD = Section("TensorBoard.")
_C.TENSORBOARD.ENABLE = switch(False, about="also write all figures to OUTPUT_DIR/tensorboard")

_C.WANDB = Section("Weights & Biases.")
_C.WANDB.ENABLE = switch(False, about="also send all figures to Weights & Biases")
_C.WANDB.PROJECT = text("videofib", about="project of the run")

_C.MLFLOW = Section("MLflow.")
_C.MLFLOW.ENABLE = switch(False, about="also send all figures to MLflow")
_C.MLFLOW.TRACKING_URI = text(off="OUTPUT_DIR/mlruns", about="address of an MLflow server, or sqlite:///FILE")
_C.MLFLOW.EXPERIMENT = text("videofib", about="experiment of the run")

_C.MODEL = Section("The model and its labels.")
_C.MODEL.MODEL_NAME = one_of(
    *("TimeSformer", "SlowFast_R50", "X3D_S", "X3D_M", "R2plus1D_R50", "MViT_B"), about="architecture"
)
_C.MODEL.NUM_CLASSES = integer(400, above=0, about="classes of the data set")
_C.MODEL.LOSS_FUNC = one_of(
    "cross_entropy", "bce_logit", about="for videos of one class, or of several (lists: path 3,7; measured by mAP)"
)
_C.MODEL.DROPOUT_RATE = number(
    0.5, above=0, below=1, off="none", about="dropout before the classifier of all models but TimeSformer"
)

_C.SLOWFAST = Section("SlowFast.")
_C.SLOWFAST.ALPHA = integer(4, above=0, about="the slow pathway sees NUM_FRAMES / ALPHA frames")

_C.TIMESFORMER = Section("TimeSformer (arXiv 2102.05095).")
_C.TIMESFORMER.ATTENTION_TYPE = one_of(
    *("divided_space_time", "joint_space_time", "space_only"),
    about="attention over time and then within frames, over all tokens, or within frames alone",
)
_C.TIMESFORMER.PATCH_SIZE = integer(16, above=0, unit="pixels", about="side of a patch")
_C.TIMESFORMER.TUBELET_SIZE = integer(1, above=0, unit="frames", about="frames that a token covers")
_C.TIMESFORMER.SIZE = one_of("tiny", "small", "base", "large", default="base", about="size, as in the ViT family")
_C.TIMESFORMER.EMBED_DIM = integer(0, above=0, off="from SIZE", about="width of a token")
_C.TIMESFORMER.DEPTH = integer(0, above=0, off="from SIZE", about="number of blocks")
_C.TIMESFORMER.NUM_HEADS = integer(0, above=0, off="from SIZE", about="attention heads of a block")
_C.TIMESFORMER.MLP_RATIO = number(4, above=0, about="width of the MLP's hidden layer over EMBED_DIM")
_C.TIMESFORMER.QKV_BIAS = switch(True, about="bias of queries, keys and values")
_C.TIMESFORMER.QK_NORM = switch(False, about="layer norms of each head's queries and keys")
_C.TIMESFORMER.LAYER_SCALE = number(above=0, off="no scales", about="initial scale of the residual branches, learned")
_C.TIMESFORMER.NORM_EPS = number(1e-6, above=0, about="epsilon of the layer norms; Hugging Face's weights have 1e-12")
_C.TIMESFORMER.PRE_NORM = switch(False, about="layer norm before the blocks, as CLIP's weights have")
_C.TIMESFORMER.CLASS_TOKEN = switch(True, about="class token before the patches; VideoMAE's weights have none")
_C.TIMESFORMER.NUM_REGISTERS = integer(0, least=0, about="register tokens after the class token (arXiv 2309.16588)")
_C.TIMESFORMER.POOLING = one_of(
    *("class_token", "mean", "class_attention"),
    about="features: the class token, the mean of the patches, or a class token that reads them after the blocks",
)
_C.TIMESFORMER.STEM = one_of("linear", "conv", about="from pixels to tokens: a projection, or XCiT's convolutions")
_C.TIMESFORMER.POSITION = one_of(
    *("learned", "learned_joint", "sinusoid", "fourier"),
    about="position embeddings; learned_joint: one a token of the clip, as ViViT's; sinusoid: fixed, as VideoMAE's; "
    "fourier: a learned map of sines and cosines, as XCiT's",
)
_C.TIMESFORMER.LOCAL_INTERACTION = one_of(
    *("none", "space", "time", "space_time"),
    off="no such branch",
    about="over which neighbouring patches convolutions mix in each block, in front of its MLP, as in XCiT",
)
_C.TIMESFORMER.LOCAL_NORM = one_of("batch", "layer", "none", about="norm between these convolutions")
_C.TIMESFORMER.ACTIVATION = one_of(
    "gelu", "gelu_tanh", "quick_gelu", about="of the MLPs; gelu_tanh: of ViViT's weights; quick_gelu: of CLIP's"
)
_C.TIMESFORMER.DROP_RATE = number(above=0, below=1, off="none", about="dropout of tokens and in MLPs")
_C.TIMESFORMER.ATTN_DROP_RATE = number(above=0, below=1, off="none", about="dropout of attention weights")
_C.TIMESFORMER.DROP_PATH_RATE = number(
    0.1, above=0, below=1, off="none", about="stochastic depth of the last block, decreasing linearly to 0 in the first"
)
_C.TIMESFORMER.TOKEN_ORDER = one_of(
    "hwt", "thw", about="order of joint tokens along Fibottention's diagonals: patch by patch, or frame by frame"
)
_C.TIMESFORMER.POSITION_INIT_STD = number(
    above=0, off="as published", about="spread of initial position and time embeddings; try 0.5 from scratch"
)
_C.TIMESFORMER.POSITION_RESIZE = one_of("bicubic", "nearest", about="resizing of position embeddings of loaded weights")
_C.TIMESFORMER.TIME_RESIZE = one_of("nearest", "linear", about="resizing of time embeddings of loaded weights")
_C.TIMESFORMER.GRADIENT_CHECKPOINTING = switch(
    False, about="recompute activations in the backward pass, to save memory"
)
_C.TIMESFORMER.RECOMPUTE = one_of(
    "block", "cheap", about="what is recomputed: all of a block, or all but matrix products and attention"
)
_C.TIMESFORMER.RECOMPUTE_EVERY = integer(1, above=0, unit="blocks", about="recompute every n-th block only")

_C.ATTENTION = Section("Token mixing of TimeSformer.")
_C.ATTENTION.SPACE = mixers_of("dense", about="within a frame (divided_space_time, space_only)")
_C.ATTENTION.TIME = mixers_of("dense", about="over time (divided_space_time)")
_C.ATTENTION.JOINT = mixers_of("dense", about="over all tokens (joint_space_time)")
_C.ATTENTION.OPTIONS = options_of_mixers(
    about="options of mixers, as in videofib/mixers/README.md; those of fibottention are the keys of FIBOTTENTION, too"
)
_C.ATTENTION.BACKEND = one_of(
    *("auto", "reference", "gather", "cpu", "triton", "dense"),
    about="implementation of sparse attention; results are equal, and dense is for dense attention alone",
)

_C.FIBOTTENTION = Section("Fibottention (arXiv 2406.19391).")
_C.FIBOTTENTION.W_MIN = integer(5, above=0, unit="tokens", about="window of the first head: its largest offset")
_C.FIBOTTENTION.W_MAX = integer(0, above=0, unit="tokens", off="a third of the tokens", about="window of the last head")
_C.FIBOTTENTION.VARIANT = one_of(
    "wythoff", "modified", "modified_early", about="rows of the paper, or extended as in versions of the released code"
)
_C.FIBOTTENTION.HEAD_ORDER = one_of(
    *("none", "per_layer", "first_layer"), about="rows in order of heads, shuffled by layer, or once for all layers"
)
_C.FIBOTTENTION.MASKING = one_of(
    "exclude", "zero_logit", about="softmax over the support (paper), or over all with other logits 0 (released code)"
)

_C.SLIMMING = Section("Token slimming of TimeSformer: soft tokens instead of many (SiT, arXiv 2111.12624).")
_C.SLIMMING.AFTER = list_of(
    integer(least=0), [], ascending=True, off="all tokens in all blocks", about="blocks, from 0, behind which it slims"
)
_C.SLIMMING.RATIO = number(0.5, above=0, below=1, about="tokens kept at each of them, as a fraction of those before")
_C.SLIMMING.PER_FRAME = switch(
    False, about="slim each frame by itself, as attention that is not joint always does, or the clip"
)
_C.SLIMMING.TEACHER = text(
    off="no teacher", about="weights of the same model unslimmed, whose tokens and scores it learns beside the labels"
)
_C.SLIMMING.TOKEN_WEIGHT = number(2, least=0, about="weight of the loss of tokens, which are recovered for it")
_C.SLIMMING.LOGIT_WEIGHT = number(2, least=0, about="weight of the loss of the teacher's scores")
_C.SLIMMING.TEMPERATURE = number(1, above=0, about="divisor of both models' logits")
_C.SLIMMING.EVERY = integer(
    1, above=0, unit="blocks", about="recover the tokens of every n-th block only, from the last"
)

_C.DEFORMABLE_MERGING = Section("Deformable token merging of TimeSformer (LIT, arXiv 2105.14217).")
_C.DEFORMABLE_MERGING.AFTER = list_of(
    *(integer(least=0), []),
    ascending=True,
    off="all tokens in all blocks",
    about="blocks, from 0, behind which one token replaces 2 x 2 of a frame",
)

_C.MERGING = Section("Token merging of TimeSformer's dense attention, without training (ToMe, arXiv 2210.09461).")
_C.MERGING.TOKENS = integer(
    0, above=0, unit="tokens", off="none merge", about="pairs that merge in each block: of a clip, or of each frame"
)
_C.MERGING.PROPORTIONAL = switch(True, about="a merged token counts in attention as often as it stands for patches")

_C.SOLVER = Section("Optimizer and learning rates.")
_C.SOLVER.OPTIMIZING_METHOD = one_of("sgd", "adamw", "lamb", "lion", about="optimizer")
_C.SOLVER.BASE_LR = number(0.005, above=0, about="learning rate after warm-up")
_C.SOLVER.BASE_LR_BATCH_SIZE = integer(
    0,
    above=0,
    unit="videos",
    off="no scaling",
    about="batch size that the learning rates are meant for; they scale linearly to the actual one",
)
_C.SOLVER.LR_POLICY = one_of(
    *("steps_with_relative_lrs", "cosine", "linear", "one_cycle"), about="learning rate over the epochs"
)
_C.SOLVER.STEPS = list_of(
    *(number(least=0), [0, 11, 14]),
    ascending=True,
    unit="epochs",
    about="starts of the stages of steps_with_relative_lrs; the first is 0",
)
_C.SOLVER.LRS = list_of(number(least=0), [1, 0.1, 0.01], about="learning rate in each of these stages, over BASE_LR")
_C.SOLVER.COSINE_END_LR = number(least=0, about="learning rate at the end of cosine, linear and one_cycle")
_C.SOLVER.MAX_EPOCH = integer(15, above=0, unit="epochs", about="epochs of training")
_C.SOLVER.WARMUP_EPOCHS = number(
    above=0,
    unit="epochs",
    off="no warm-up",
    about="epochs in which the learning rate rises to that of the policy; shortened where MAX_EPOCH is too low for it",
)
_C.SOLVER.WARMUP_START_LR = number(least=0, about="learning rate at the start of warm-up")
_C.SOLVER.MOMENTUM = number(0.9, above=0, below=1, off="none", about="momentum of sgd")
_C.SOLVER.NESTEROV = switch(True, about="Nesterov momentum of sgd")
_C.SOLVER.BETAS = list_of(
    number(least=0, below=1), [0.9, 0.999], length=2, about="decay rates of the moments of adamw, lamb and lion"
)
_C.SOLVER.WEIGHT_DECAY = number(1e-4, above=0, off="none", about="weight decay")
_C.SOLVER.ZERO_WD_1D_PARAM = switch(True, about="no weight decay of biases, norms and embeddings")
_C.SOLVER.LAYER_DECAY = number(
    1, above=0, most=1, about="learning rate of a TimeSformer block over that of the next, often 0.75 in fine-tuning"
)
_C.SOLVER.CLIP_GRAD_L2NORM = number(above=0, off="no clipping", about="largest L2 norm of the gradient")
_C.SOLVER.MAX_SKIPPED_STEPS = integer(
    10, above=0, unit="steps", about="non-finite gradients in a row that end training"
)


def _flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Key]]:
    for name, value in section.items().items():
        if isinstance(value, Section):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


KEYS: Mapping[str, Key] = MappingProxyType(dict(_flat(_C)))  # by full name, such as SOLVER.BASE_LR
SECTIONS: Mapping[str, str] = MappingProxyType(  # name -> a sentence; "" for keys in none
    {"": _C.about} | {name: value.about for name, value in _C.items().items() if isinstance(value, Section)}
)
MAPPINGS = frozenset(name for name, key in KEYS.items() if isinstance(key, Options))  # keys whose values are mappings
