# SPDX-License-Identifier: Apache-2.0
"""Names of the regions of the compiled step, for `jax.named_scope`, and of what the host does for it in a trace.

The compiler writes them into the program's text; planning/ reads them there to tell stages apart and to say how often a
loop runs, and a profiler shows them. Each is named here once, so that a rename reaches both sides.
"""

STEP = "rl"  # a step of RL as the host sees it, with its number
SAMPLE = "sample"  # the pieces of a step: step.make_sample, scoring.make_score, step.make_update
SCORE = "score"  # also on the host, which judges
UPDATE = "update"  # ANCHOR_PARTS and UPDATE_PARTS are in it
TOKEN_LOOP = "token_loop"  # one iteration a token; around ALL_LANES and FEW_LANES
ALL_LANES = "all_lanes"  # the loop while every lane is in use
FEW_LANES = "few_lanes"  # the loops after most lanes fell idle
PROMPT_ATTENTION = "prompt_attention"  # of a lane's token to its prompt
OWN_ATTENTION = "own_attention"  # of a lane's token to the lane's own columns, a block of them at a time
ATTENTION = "attention"  # of the tokens of a row to each other, without a cache
TILES = "tiles"  # the same by the form without a kernel, a tile at a time
HEAD = "head"  # scores of the vocabulary
DRAWING = "drawing"  # a token from its scores
ANCHOR_PARTS = "anchor_parts"  # log-probabilities for the KL, a part of the rows at a time
UPDATE_PARTS = "update_parts"  # gradients, a part of the rows at a time
HEAD_CHUNKS = "head_chunks"  # scores of the vocabulary, a chunk of positions at a time
