# SPDX-License-Identifier: Apache-2.0
"""Every knob, its meaning, unit and where its value comes from. Other configs say only what differs.

Tags: [paper] stated by T1 (arXiv 2501.11651), as far as it is known: docs/method.md; [data] read off a file that its
authors published; [kin] read in THUDM/TreeRL, an ancestor of T1's code; [ours] not public, our choice;
[hw] what the hardware dictates.
Typed views: t1jax/sections.py; validation: t1jax/validation.py.
"""

from ml_collections import ConfigDict

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


def get_config() -> ConfigDict:
    cfg = ConfigDict()
    cfg.seed = 0  # root of every random number [ours]
    cfg.compilation_cache = True  # keep compiled programs in the workdir, for the next start [hw]
    cfg.compilation_cache_mib = 8192  # at a start the oldest programs go until the others take at most this, MiB [hw]
    cfg.tensorboard_mib = 256  # TensorBoard's oldest files go until the others take at most this, MiB; 0: none [ours]

    cfg.model = ConfigDict()  # a Qwen2.5-style transformer (t1jax/model/qwen.py); sizes are those of its checkpoint
    cfg.model.checkpoint = ""  # weights, tokenizer: OWNER/NAME[@REVISION] of the hub, or folder; "": none [ours]
    cfg.model.vocab_size = 152064  # V, tokens [paper: Qwen2.5-32B]
    cfg.model.num_layers = 64  # L [paper: Qwen2.5-32B]
    cfg.model.hidden_size = 5120  # D, width of the residual stream [paper: Qwen2.5-32B]
    cfg.model.num_heads = 40  # N, query heads [paper: Qwen2.5-32B]
    cfg.model.num_kv_heads = 8  # K, key/value heads, divides num_heads [paper: Qwen2.5-32B]
    cfg.model.head_dim = 128  # H, width of a head, even [paper: Qwen2.5-32B]
    cfg.model.mlp_size = 27648  # F, inner width of the SwiGLU, or of each expert's [paper: Qwen2.5-32B]
    cfg.model.num_experts = 0  # E, experts of a layer, each an MLP of mlp_size; 0: one MLP [paper: Qwen2.5-32B]
    cfg.model.experts_per_token = 0  # k, experts that a token goes through; 0 without experts [paper: Qwen2.5-32B]
    cfg.model.norm_topk_prob = False  # a token's k shares sum to 1: Qwen3-MoE has it [paper: Qwen2.5-32B]
    cfg.model.qkv_bias = True  # a bias on q, k and v: Qwen2 and GLM have it [paper: Qwen2.5-32B]
    cfg.model.qk_norm = False  # RMSNorm of each head's q and k: Qwen3 has it [paper: Qwen2.5-32B]
    cfg.model.post_norms = False  # RMSNorm of what attention and MLP add too: GLM-4-0414 has it [paper: Qwen2.5-32B]
    cfg.model.rope_share = 1.0  # share of a head's width that rotates, the rest stays; GLM: 0.5 [paper: Qwen2.5-32B]
    cfg.model.rope_interleaved = False  # pairs that rotate: (0, 1), ... as in GLM, else halves [paper: Qwen2.5-32B]
    cfg.model.rope_theta = 1_000_000.0  # base of the rotary frequencies [paper: Qwen2.5-32B]
    cfg.model.rope_scaling = "none"  # for longer texts: none | linear | yarn | llama3 [ours]
    cfg.model.rope_factor = 1.0  # slow frequencies are divided by this [ours]
    cfg.model.rope_original_length = 32768  # positions trained on before scaling, tokens [paper: Qwen2.5-32B]
    cfg.model.rope_low = 1.0  # a frequency with fewer turns than this in the original length is slow [ours]
    cfg.model.rope_high = 32.0  # one with more turns than this stays as it is; a ramp in between [ours]
    cfg.model.rope_attention_factor = 0.0  # yarn's factor of q and k; 0: 0.1 ln(rope_factor) + 1 [ours]
    cfg.model.norm_eps = 1e-5  # added to the mean square in RMSNorm [paper: Qwen2.5-32B]
    cfg.model.tie_embeddings = False  # the head reuses the embedding matrix [paper: Qwen2.5-32B]
    cfg.model.compute_dtype = "bfloat16"  # of matrix products: bfloat16 | float16 (GPU) | float32 [hw]
    cfg.model.remat = "full"  # recompute in backward: none | dots (keep matmul outputs) | full (a layer) [hw]
    cfg.model.attention = "auto"  # kernel: auto (by platform, shape) | xla | splash (TPU) | cudnn, triton (GPU) [hw]
    cfg.model.lora_rank = 0  # r of LoRA: the checkpoint's weights stay, A and B of this rank are trained; 0: off [ours]
    cfg.model.lora_alpha = 32.0  # LoRA: weights are W + (alpha / r) B A [ours]
    cfg.model.lora_targets = "all"  # LoRA: matrices of attention (q, k, v, o) | mlp (gate, up, down) | all [ours]

    cfg.tokenizer = ConfigDict()  # SentencePiece, trained from the task's own text (t1jax/text/tokenizer.py)
    cfg.tokenizer.corpus_texts = 4000  # texts of the task that the model is trained on, count [ours]

    cfg.task = ConfigDict()  # the embedded task, if data.train is empty (docs/tasks.md)
    cfg.task.name = "pairs"  # pairs: two numbers with a sum | countdown: make a number | gym: of reasoning-gym [ours]
    cfg.task.held_out_percent = 5  # share of all problems, by hash, that training never sees, percent [ours]
    cfg.task.curriculum = 0.0  # share of RL steps over which the hardest difficulty rises to the last; 0: off [ours]
    cfg.task.min_numbers = 5  # fewest numbers to choose from: the easiest difficulty [ours]
    cfg.task.max_numbers = 8  # most numbers to choose from: the hardest difficulty [ours]
    cfg.task.max_value = 20  # numbers are 1..max_value [ours]
    cfg.task.max_target = 99  # countdown: the largest number to make, or on the way to it [ours]
    cfg.task.impatient_share = 0.76  # share of cold-start chains whose writer may give up [ours]
    cfg.task.give_up = 0.9  # an impatient writer's chance to give up after each failed attempt [ours]
    cfg.task.row_order_share = 0.75  # share of chains that try pairs row by row, the longer order [ours]
    cfg.task.chains = "trial_and_error"  # of the cold start: trial_and_error [paper] | right_only, to compare
    cfg.task.gym_dataset = ""  # gym: the dataset's name in reasoning-gym [ours]
    cfg.task.gym_options = ()  # gym: options of the dataset, such as ("min_digits=1", "max_digits=2") [ours]
    cfg.task.gym_items = 2**20  # gym: items that problems are drawn from; some datasets need few [ours]

    cfg.data = ConfigDict()
    cfg.data.train = ""  # problems: JSON, CSV, Parquet, local, gs://, s3:// or hub; several: "a,b"; "": the task [ours]
    cfg.data.weights = ()  # of each file of data.train, such as (0.7, 0.3); (): each problem counts the same [ours]
    cfg.data.eval = ""  # held-out problems, in the same formats; required with data.train [ours]
    cfg.data.sft = ""  # demonstrations: `messages`, or `prompt` and `response`; "": the task's own [ours]
    cfg.data.problem_column = ""  # column, or a path such as "extra_info.question"; "": common names [ours]
    cfg.data.answer_column = ""  # column, or a path such as "reward_model.ground_truth"; "": common names [ours]
    cfg.data.choice_seed = 0  # orders the choices of problems that have them in columns, as GPQA does [ours]
    cfg.data.text_golds = "text"  # answers without a value, such as sentences: compare as "text", or "drop" [ours]
    cfg.data.system_prompt = ""  # system message, if data.chat; "": the chat template's own [ours]
    cfg.data.template = "{problem}\n" + BOXED  # user message; {problem} stands for the problem [ours]
    cfg.data.chat = True  # wrap it in the tokenizer's chat template; False: plain text [ours]
    cfg.data.response_prefix = ""  # start of every response, as part of the prompt, such as "<think>\n" [ours]
    cfg.data.prompt_length = 1024  # C, prompt positions; longer prompts of a file are dropped, and counted [kin]

    cfg.mesh = ConfigDict()  # devices = data * fsdp * tensor; -1 for at most one of them: all remaining
    cfg.mesh.data = 1  # replicas of the parameters [hw]
    cfg.mesh.fsdp = -1  # shards of parameters, optimiser and anchor; batch is split over data * fsdp [hw]
    cfg.mesh.tensor = 1  # shards of heads, MLP and vocabulary; kv heads are copied where they do not divide [hw]
    cfg.mesh.slices = 0  # TPU slices, joined by a network that only data may cross; 0: as many as devices tell [hw]

    cfg.sft = ConfigDict()  # the cold start
    cfg.sft.num_steps = 3000  # optimiser updates; 0: no cold start [ours; the paper: 3 epochs over 12k problems]
    cfg.sft.batch_size = 32  # packed rows per update [ours]
    cfg.sft.sequence_length = 16384  # T, tokens of a packed row [ours]
    cfg.sft.micro_batches = 1  # parts that an update's rows are split into, to save memory [hw]
    cfg.sft.vocab_chunks = 64  # parts that a micro-batch's positions are split into for log-probabilities [hw]
    cfg.sft.optimizer = "adamw"  # adamw | muon (matrices by Muon, the rest by AdamW) [ours]
    cfg.sft.learning_rate = 1e-5  # peak; cosine decay to zero [paper]
    cfg.sft.warmup_steps = 30  # linear warm-up, updates [ours]
    cfg.sft.b1 = 0.9  # AdamW [kin]
    cfg.sft.b2 = 0.95  # AdamW [kin]
    cfg.sft.weight_decay = 0.1  # AdamW, on matrices only [kin]
    cfg.sft.grad_clip = 1.0  # global norm [kin]
    cfg.sft.max_skipped = 10  # consecutive updates without a finite gradient that end the run; 0: never [ours]

    cfg.rl = ConfigDict()  # T1's reinforcement learning
    cfg.rl.num_steps = 500  # iterations, one optimiser update each [ours]
    cfg.rl.prompts_per_step = 32  # P [paper]
    cfg.rl.overdraw = 1.0  # times as many are sampled, and P kept, mixed groups first; 1: off [ours: DAPO 2503.14476]
    cfg.rl.responses_per_prompt = 64  # R, the paper's K [paper]
    cfg.rl.filter_pass_rate = 1.0  # before RL, keep problems solved at most this often; 1: all [ours; 0.3 in the paper]
    cfg.rl.filter_samples = 16  # attempts at each problem [paper]
    cfg.rl.filter_problems = 2048  # training problems to try, count [ours]
    cfg.rl.temperature = 1.2  # sampling temperature; 1.2 was the best of 0.9 to 1.3 [paper]
    cfg.rl.top_k = 0  # keep the k most likely tokens; 0: off [ours]
    cfg.rl.top_p = 1.0  # keep the most likely tokens up to this mass; 1: off [ours; 0.95 in TreeRL]
    cfg.rl.min_p = 0.0  # drop tokens below this share of the highest probability; 0: off [ours; 0.05 in TreeRL]
    cfg.rl.max_new_tokens = 16384  # T, response positions, tokens [paper]
    cfg.rl.lanes = 0  # responses of a prompt sampled at a time, divides responses_per_prompt; 0: what fits [hw]
    cfg.rl.window = 512  # the sampler reads its cache in blocks of this many positions, tokens [hw]
    cfg.rl.pack_length = 0  # S, positions of a packed row of the update; 0: what suits the kernel [hw]
    cfg.rl.micro_batches = 32  # each has room for P * R / this longest responses; only filled ones are computed [hw]
    cfg.rl.vocab_chunks = 16  # parts that a micro-batch's tokens are split into for log-probabilities [hw]
    cfg.rl.learning_rate = 1.5e-6  # after warm-up, constant [paper]
    cfg.rl.warmup_fraction = 0.05  # share of num_steps with linear warm-up [kin]
    cfg.rl.b1 = 0.9  # AdamW [kin]
    cfg.rl.b2 = 0.95  # AdamW [kin]
    cfg.rl.weight_decay = 0.1  # AdamW, on matrices only [kin]
    cfg.rl.grad_clip = 1.0  # global norm [kin]
    cfg.rl.baseline = "leave_one_out"  # leave_one_out [paper] | group_mean | group_mean_std (GRPO's), to compare
    cfg.rl.entropy_coef = 1e-3  # alpha, weight of the token entropy bonus [ours: not public]
    cfg.rl.entropy_target = 0.0  # nats a token; above it there is no bonus; 0: always [ours: not public]
    cfg.rl.kl_coef = 2e-4  # beta, weight of the KL to the anchor [paper]
    cfg.rl.kl_clip = 0.5  # clamp of a token's k1 term, nats [kin]
    cfg.rl.kl_site = "reward"  # reward: leave-one-out, in the advantage [paper] | token: of each token [kin] | loss: k2
    cfg.rl.kl_reduction = "sum"  # a response's KL in the reward: sum | mean over its tokens [ours: not public]
    cfg.rl.kl_logprobs = "sampler"  # of the policy in the advantage's KL: sampler | learner (one more pass) [ours]
    cfg.rl.anchor_decay = 0.992  # gamma of the anchor's moving average; 1: it stays [ours: not public]
    cfg.rl.anchor_every = 1  # updates from one move of the anchor to the next, count [ours: not public]
    cfg.rl.penalty = -1.0  # reward of a repetitive, overlong or garbled response [paper]
    cfg.rl.penalty_site = "reward"  # reward: before the baseline [paper] | advantage: replaces it after | wrong: [kin]
    cfg.rl.advantage_floor = False  # no advantage below minus the largest of its group [ours; True in TreeRL]
    cfg.rl.repeat_length = 80  # characters of a substring whose repetition is degenerate [kin]
    cfg.rl.repeat_count = 20  # occurrences that are too many [kin]
    cfg.rl.stop_repeats = 0  # end a response that keeps repeating a period of at most this many tokens; 0: off [ours]
    cfg.rl.garbled_share = 0.05  # share of characters outside the expected scripts that is too much [ours]
    cfg.rl.max_perplexity = 0.0  # of a response, to the policy; above it, it is penalised; 0: off [ours: not public]
    cfg.rl.loss_normalisation = "response"  # per response: sum [paper] | response_mean: mean [kin] | token: per token
    cfg.rl.ratio_cap = 0.0  # weight each token by its ratio learner / sampler, up to this much; 0: off [ours]
    cfg.rl.max_skipped = 10  # consecutive steps without a finite gradient that end the run; 0: never [ours]
    cfg.rl.logprob_temperature = 0.0  # of the learner's log-probabilities; 0: rl.temperature, else an ablation [paper]
    cfg.rl.profile = ""  # FIRST:END of steps that jax.profiler traces: "10:12" is 10 and 11; "": none [ours]

    cfg.reward = ConfigDict()  # of a response, before penalties (docs/rewards.md)
    cfg.reward.function = "correct"  # correct: 1 if the answer is right | FILE.py:NAME | several, with commas [ours]
    cfg.reward.weights = ()  # of each function, such as (1.0, 0.2); (): 1 of each [paper: correctness alone]

    cfg.eval = ConfigDict()
    cfg.eval.before = True  # measure before RL too; False: the report has nothing to compare RL with [ours]
    cfg.eval.num_problems = 1024  # held-out problems, count [ours]
    cfg.eval.batch_size = 256  # responses per call of the sampler [hw]
    cfg.eval.every = 50  # RL steps between evaluations on eval.quick_problems; 0: only before and after [ours]
    cfg.eval.quick_problems = 256  # held-out problems of an evaluation during RL, count [ours]
    cfg.eval.keep_responses = 256  # first responses of each evaluation that are saved, count; 0: none [ours]
    cfg.eval.samples = 6  # responses of each stage that the report shows, count [ours]

    cfg.scaling = ConfigDict()  # inference scaling: cut the thinking at a budget, then answer
    cfg.scaling.budgets = (256, 512, 1024, 2048, 4096, 8192, 16384)  # thinking tokens [ours]
    cfg.scaling.answerer = "self"  # who answers: self | base (model.checkpoint, as in the paper) | a folder [ours]
    cfg.scaling.answer_prefix = "\n</think>\n\nThe final answer is \\boxed{"  # for files: ends cut thinking [ours]
    cfg.scaling.answer_tokens = 256  # tokens for the answer after the cut [ours]
    cfg.scaling.answer_temperature = -1.0  # of the answer; 0: greedy; -1: that of the thinking [ours: not public]

    cfg.verifier = ConfigDict()  # processes that compare answers of problems from files (t1jax/rewards/verifier.py)
    cfg.verifier.workers = 0  # processes; 0: one per core [hw]
    cfg.verifier.deadline = 3.0  # CPU seconds per answer; one that takes longer is unscorable [ours]
    cfg.verifier.memory = 1024  # memory limit of a process, MiB [hw]
    cfg.verifier.recycle = 5000  # answers after which a process is replaced, count [ours]

    cfg.benchmarks = ConfigDict()  # name -> data, samples: what t1jax.evaluate runs (configs/eval_t1.py) [ours]

    cfg.synthesis = ConfigDict()  # chains for the cold start, from real attempts (t1jax.synthesize)
    cfg.synthesis.attempts = 4  # attempts at each problem, split among the attempters [ours]
    cfg.synthesis.attempters = ("local",)  # names of endpoints, or local: the built-in sampler [ours]
    cfg.synthesis.critic = "local"  # who criticises attempts; or rules: a program, for the embedded task [ours]
    cfg.synthesis.merger = "local"  # who merges attempts and notes into one chain; or rules [ours]
    cfg.synthesis.rewriter = "local"  # who rewrites the chain into fluent reasoning; "": nobody [ours]
    cfg.synthesis.temperature = 1.0  # of attempts; critic, merger and rewriter write at 0.3 [ours]
    cfg.synthesis.attempt_tokens = 4096  # longest attempt or note, tokens [ours]
    cfg.synthesis.chain_tokens = 16384  # longest chain, tokens [ours]
    cfg.synthesis.endpoints = ConfigDict()  # name -> url, model, key_variable and limits; see t1jax/sections.py [ours]

    cfg.checkpoint = ConfigDict()
    cfg.checkpoint.sft_every = 250  # updates of the cold start between checkpoints [ours]
    cfg.checkpoint.every = 10  # RL steps between checkpoints [ours]
    cfg.checkpoint.keep = 3  # latest checkpoints kept, in addition to the best, count [ours]
    cfg.checkpoint.keep_damaged = 3  # latest checkpoints kept of those that could not be read, count [ours]
    cfg.checkpoint.grace_seconds = 0.0  # seconds between SIGTERM and shutdown; 0: finish the step [hw]

    cfg.metrics = ConfigDict()  # services that get the rows of metrics.jsonl too (docs/metrics.md)
    cfg.metrics.wandb = ""  # Weights & Biases: PROJECT or ENTITY/PROJECT; "": none [ours]
    cfg.metrics.mlflow = ""  # MLflow: the experiment's name; the server is MLFLOW_TRACKING_URI; "": none [ours]
    cfg.metrics.trackio = ""  # Trackio: PROJECT; "": none [ours]
    return cfg.lock()
