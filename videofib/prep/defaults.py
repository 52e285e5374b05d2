"""Numbers that --help shows, so they are here, without the imports of the code that they belong to."""

SHORT_SIDE = 256  # pixels at most
GOP = 12  # frames a group: a seek decodes at most this many
CRF = 18  # x264's constant quality: 0 lossless, 18 hardly distinguishable from the source, 23 x264's own default
HASH_BITS = 64  # of the hash of a picture
# Of 69 clips of UCF101, each scaled and compressed in two ways, 97 % differ in at most 4; of 2346 pairs of different
# groups none differs in fewer than 9.
NEAR = 4  # bits that may differ between the hashes of near pictures
SHARD_BYTES = 1 << 30
