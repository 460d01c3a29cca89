"""What every program refuses before it loads a model: program, flags, and what the line says.

A row's flags stand behind those of ``GOOD``, a command line that the program accepts; where a
program's name ends in ``!`` they stand alone. The last part is a regular expression.
"""

from __future__ import annotations

import shlex

LOGS = "--output_dir out --log_type none --progress false"
PAIRS = "--train_datasets pairs:1:pairs.jsonl"
DPO = f"--model_name_or_path model --objectives helpful harmless {PAIRS} {LOGS}"
PPO = (
    "--actor_model_name_or_path model --reward_models helpful=a harmless=b "
    f"--train_datasets prompts:1:pairs.jsonl {LOGS}"
)
GRPO = f"{PPO} --num_return_sequences 4"
SFT = f"--model_name_or_path model --train_datasets supervised:1:pairs.jsonl {LOGS}"
PANACEA_SFT = (
    "--model_name_or_path model --train_datasets helpful=supervised:1:a.jsonl "
    f"harmless=supervised:1:b.jsonl {LOGS}"
)
DRY = "--epochs 1 --lora_dim 8 -- --dry_run"  # the launcher's flags, then the user's
DRY_SFT = "--epochs 1 -- --dry_run"
FIGURE = "--output_dir out"
GOOD = {
    "sft": SFT,
    "reward": f"--objective helpful --model_name_or_path model {PAIRS} {LOGS}",
    "dpo": DPO,
    "ppo": PPO,
    "panacea_sft": PANACEA_SFT,
    "grpo": GRPO,
    "rewarded_soups": f"dpo {DPO}",
    "discrete_policies": f"dpo {DPO}",
    "fixed_scaling": f"ppo {PPO}",
    "evaluation": "--adapter adapter --datasets prompts:1:pairs.jsonl --output_dir out",
    "calibrate": "--model_name_or_path model --datasets prompts:1:pairs.jsonl "
    "--reward_models helpful=a --output_file out.json",
    "agreement": "--model_name_or_path model --datasets pairs:1:pairs.jsonl "
    "--reward_models helpful=a --output_file out.json",
    "compare": "front second --output_dir out",
    "respond": "--adapter adapter --preference 1,0 hello",
    "card": "--adapter adapter",
    "push": "--adapter adapter --repo me/it",
    "chat": "--adapter adapter",
    "serve": "--adapter adapter --port 0",
    "memory": "--model model --algorithm dpo",
    "dashboard": "run --output out.html",
    "miniature": "--output_dir out",
    "world": "--output_dir out",
    "datasets": "",
    "regression": "",
    "report": "--figures figures --output out.html",
    "seeds_table": "--runs run",
    "over_seeds": "--runs front --baselines front --output_dir out",
    "front_benchmark": "",
    "benchmarks.run": "",
    "figure_3_reward_distributions": f"{FIGURE} --run front",
    "figure_4_left_ppo_fronts": f"{FIGURE} --runs front",
    "figure_4_right_front_evolution": f"{FIGURE} --runs front",
    "figure_5_dpo_fronts": f"{FIGURE} --runs front",
    "figure_6_8_responses": f"{FIGURE} --run front",
    "figure_7_scaling_ablation": f"{FIGURE} --runs front",
    "singular_values": f"{FIGURE} --adapter adapter",
    "three_objectives": f"{FIGURE} --runs front",
    "experiments": "",
}

NOT_NEGATIVE = "is not a number of at least 0"
SERVED = "--rollout_engine vllm --rollout_server"
POSITIVE = "is not a positive number"
PROBABILITY = "is not between 0 and 1"
FINITE = "is not a finite number"
COUNT = "is not a positive integer"
SEED = "is not a seed, an integer from 0 on"
EMPTY = "must not be empty"
NAME = "a name has letters, digits"

# Flags with a range: programs, flags, bad values, what the line says; one for each kind, and for
# each program that reads its numbers itself.
RANGES = [
    ("dpo", "lr", "nan -1e-5 inf", NOT_NEGATIVE),
    ("dpo", "scale_coeff", "nan 0 -0.1 much", "(is not a positive number|is not a number)"),
    ("dpo", "lr_warmup_ratio", "1.5 nan", PROBABILITY),
    ("dpo", "lora_dim", f"0 {2**31} 8.5 x", COUNT),
    ("dpo", "seed", f"-1 {2**32} 1.5", SEED),
    ("dpo", "reference_point", "'nan nan' '0 inf'", FINITE),
    ("ppo", "top_p", "0 1.01 nan", "is not above 0 and at most 1"),
    ("reward", "eval_split_ratio", "0 1 nan", "is not above 0 and below 1"),
    ("sft", "output_dir", "'' ' '", EMPTY),
    ("respond", "seed", "-1", SEED),
    ("chat", "top_p", "1.01", "is not above 0 and at most 1"),
    ("serve", "port", "-1 65536 http", "is not a port"),
    ("serve", "token", "''", EMPTY),
    ("front_benchmark", "first_seed", "-1", SEED),
    ("benchmarks.run", "rounds threads", "0", COUNT),
    ("regression", "pairs batch_size", "0", COUNT),
    ("agreement", "batch_size", "0", COUNT),
    ("miniature", "output_dir", "''", EMPTY),
    ("fixed_scaling", "factors", "'1 inf'", FINITE),
    ("discrete_policies", "grid_step", "0", POSITIVE),
    ("figure_5_dpo_fronts", "name", "../../x", "is a path, not a name"),
]

OTHERS = rf"""
sft!         ;                                    ; the following arguments are required
sft          ; --lrr 1                            ; no flag --lrr: did you mean --lr\? \(see
sft!         ; --output-dir out                   ; no flag --output-dir: .*mean --output_dir\?
sft          ; --nothing_like_it=1                ; there is no flag --nothing_like_it \(see
sft          ; --fp16 --bf16                      ; --fp16 and --bf16 were both given
sft          ; --need_eval                        ; exactly one of --eval_datasets and
sft          ; --offload all --zero_stage 2       ; --offload all needs --zero_stage 3
sft          ; --lr_scheduler_type wild           ; invalid choice: 'wild'
sft          ; --output_dir file                  ; file is a file
sft          ; --output_dir run                   ; run already holds a run
sft          ; --output_dir loop                  ; loop is a link that leads nowhere
sft          ; --output_dir ~no-such-user/out     ; ~ and a name that no user has
ppo          ; --reward_models a=~no-such-user/m b=m --output_dir ~no-such-user ; no user has
sft          ; --output_dir {chr(0xDCFF)}         ; '\\udcff' is not UTF-8 text
sft          ; --resume                           ; out holds no run to resume
sft          ; --resume --overwrite               ; either resumed or overwritten
sft          ; --chat_template none.jinja         ; none.jinja: no such chat template
sft          ; --chat_template ''                 ; --chat_template: {EMPTY}
reward       ; --chat_template bad.jinja          ; bad.jinja:2: .*fails on .*division by zero
dpo          ; --chat_template open.jinja         ; open.jinja:3: .*unexpected
dpo          ; --model_name_or_path adapter       ; at one λ: write adapter@helpful=0.5,harmless=0.5
evaluation   ; --chat_template deaf.jinja         ; deaf.jinja: .*leaves out what the user says
calibrate    ; --chat_template file               ; file: the chat template is empty
sft          ; --train_datasets :1                ; has no name
sft          ; --train_datasets pairs:1e300:x     ; proportion 1e\+300 makes over 100,000,000 rows
sft          ; --train_datasets pairs:-1:x        ; proportion -1.0 is not above 0
dpo          ; --train_datasets pairs:999999999999/-1:x ; makes over 100,000,000 rows
dpo          ; --eval_datasets pairs:much:x       ; 'much' is neither a number nor a fraction
grpo         ; --num_return_sequences 1           ; is 1: GRPO compares .* and needs at least 2
grpo         ; --num_return_sequences 3           ; 16 is no multiple of --num_return_sequences 3
grpo         ; --per_device_prompt_batch_size 6   ; is 24, which is no multiple of .*_batch_size 16
grpo         ; --temperature 0                    ; draws the same response .* again and again
grpo         ; --equal_steps --advantage sum_then_normalize ; belongs to .* normalize_then_sum
grpo         ; --smooth_mu 1 --aggregation tche   ; --smooth_mu belongs to --aggregation stche
grpo         ; --rollout_engine vllm              ; vllm needs --rollout_server: addresses
ppo          ; --rollout_stale                    ; --rollout_stale belongs to --rollout_engine vllm
grpo         ; {SERVED} host:8000                 ; 'host:8000' is no server's address: it must be
ppo          ; {SERVED} auto http://a:1           ; --rollout_server auto stands alone
grpo         ; {SERVED} http://a:1 --rollout_server_flags x ; belongs to --rollout_server auto
ppo          ; {SERVED} http://a:1 --rollout_stale --update_iters 2 ; needs --update_iters 1
evaluation   ; --engine vllm                      ; --engine vllm and --server URL belong together
evaluation   ; --engine vllm --server http://a:1  ; evaluates rewards of one Panacea adapter
grpo         ; --train_datasets helpful=pairs.jsonl ; named for 'helpful', .*: leave helpful= out
grpo         ; --critic_lr 1                      ; there is no flag --critic_lr
dpo          ; --aggregation stche                ; invalid choice: 'stche'
dpo          ; --objectives a b a                 ; an objective is named twice
dpo          ; --objectives a ../../esc           ; objective name '../../esc': {NAME}
dpo          ; --objectives a=b c,d               ; objective name 'a=b': {NAME}
dpo          ; --objectives a {"b" * 65}          ; objective name 'b+…': {NAME}
reward       ; --objective ../x                   ; --objective: objective name '../x': {NAME}
ppo          ; --reward_models ../a=x b=y         ; objective name '../a': {NAME}
evaluation   ; --reward_models a/b=x              ; objective name 'a/b': {NAME}
dpo          ; --pref_dim 3                       ; --pref_dim is 3, but there are 2 objectives
dpo          ; --fixed_scaling 1 --scaling_per_objective ; exclude each other
dpo          ; --preference_sampler stratified    ; for two objectives and scope sample
dpo          ; --dirichlet_alpha 2                ; belongs to --preference_sampler dirichlet
dpo          ; --vertex_probability_end 0.5        ; needs --vertex_probability, where
dpo          ; --fixed_preference 1,0 --preference_scope sample ; draws nothing
dpo          ; --preference_for_labels            ; belongs to --preference_scope sample
dpo          ; --fixed_scaling 1 --scaling_lr_multiplier 2 ; --fixed_scaling fixes it
dpo          ; --vertex_probability 0             ; belongs to --preference_sampler vertices
dpo          ; --preference_sampler vertices      ; sampler needs a vertex_probability
dpo          ; --reference_point 1                ; --reference_point needs 2 numbers, not 1
dpo          ; --eval_grid_step 0.3               ; grid step 0.3 does not divide 1
dpo          ; --eval_grid_step 1e-9              ; 1,000,000,001 vectors of 2 objectives.*use 0.01
ppo          ; --eval_prompts 0                   ; 0 {COUNT}
ppo          ; --reward_scales helpful=nan        ; helpful=nan: must be finite
ppo          ; --reward_scales helpful=0          ; must be positive
ppo          ; --reward_scales nope=3             ; names 'nope', which has no reward model
ppo          ; --reward_signs helpful=2           ; must be 1 or -1
ppo          ; --reward_shifts helpful=x          ; helpful=x: not a number
ppo          ; --reward_models helpful            ; is not of the form name=value
ppo          ; --reward_models a=x a=y            ; names an objective twice
ppo          ; --reward_models a=m:f?x=1,y=2 b=m:f?y=2,x=1 ; a and b are the same function with the
evaluation   ; --reward_models helpful=m:f harmless=m:f ; helpful and harmless are the same function
ppo          ; --reward_models a=m b=m            ; a and b are the same model, m: they are one obj
ppo          ; --reward_models a=run b=./run      ; a and b are the same model
ppo          ; --objectives helpful funny         ; objective 'funny' has no reward model
ppo          ; --reward_calibration none.json     ; none.json: no such file
memory       ; --mean_length 600                  ; --mean_length 600 is above --max_length 512
memory       ; --prompt_length 512                ; --prompt_length 512 fills --max_length 512
memory       ; --reward_models a=x b=y            ; --algorithm dpo has none
memory       ; --algorithm ppo --reward_models a=x ; is 2, but there are 1 --reward_models
memory       ; --model no/such/folder/            ; no/such/folder
memory       ; --config file                      ; file: must hold lines of the form option: v
respond!     ; --config none                      ; none: .*No such file
panacea_sft  ; --train_datasets supervised:1:a.jsonl ; name its objective, as in helpful=superv
panacea_sft  ; --train_datasets a=supervised:1:x b= ; data set '' has no name
dpo!         ; --model_name_or_path m {PAIRS} {LOGS} ; --objectives is missing, and --train_data
dpo          ; --train_datasets kind=x            ; named for 'kind', which is none of --objecti
dpo          ; --train_datasets =x                ; data set '=x' names no objective before the =
datasets     ; pairs.jsonl:0                      ; proportion 0.0 is not above 0
datasets     ; none.jsonl                         ; none.jsonl: no such file
datasets     ; helpful=pairs.jsonl                ; no pairs, so 'helpful' has no label there
datasets     ; file.jsonl                         ; columns question are of no format .*: prompt/
datasets     ; tools.jsonl                        ; tools.jsonl:2: messages: message 2 is about a
datasets     ; supervised:1:chosen.jsonl          ; chosen/rejected are pairs. chosen:1:PATH
datasets     ; pairs:1:tools.jsonl                ; messages are supervised texts. super
panacea_sft  ; --train_datasets a=x:1 b=x:2       ; x is given twice
panacea_sft  ; --train_datasets a=x b=y a=x       ; --train_datasets a=x is given twice
panacea_sft  ; --train_datasets ../a=x b=y        ; name its objective, as in helpful=../a=x
panacea_sft  ; --objectives helpful kind          ; names 'harmless', which is none of --objectives
panacea_sft  ; --objectives helpful harmless kind --pref_dim 3 ; 'kind' has no data set: add kind=
panacea_sft  ; --need_eval --eval_datasets helpful=x ; 'harmless' has no data set.*--eval_datasets
rewarded_soups     ; --resume                     ; --resume is of a single training
evaluation   ; --grid_step 0.15                   ; grid step 0.15 does not divide 1
evaluation   ; --cluster_column topic             ; --cluster_column .* needs --reward_models
evaluation   ; --reference_point 0 0 0            ; --reference_point needs 2 numbers, not 3
evaluation   ; --adapter none                     ; none holds no adapter
evaluation   ; --adapter damaged                  ; adapter_config.json:1: not valid JSON
evaluation   ; --adapter escaping                 ; '../../x' is no name
respond!     ; --adapter above --preference 1,0 x ; objectives: '..' is no name
serve        ; --adapter doubled                  ; not valid JSON: the key .format. stands twice
evaluation   ; --output_dir above                 ; above/log-sigmoid holds another program's run
evaluation   ; --output_dir run --overwrite       ; run holds another program's run
evaluation   ; --reward_models a=x                ; objective 'helpful' has no reward model
calibrate!   ; --model_name_or_path m --datasets x --output_file o ; --reward_models is missing
calibrate    ; --output_file file                 ; file exists
calibrate    ; --output_file front                ; front is a folder
calibrate    ; --output_file file/out.json        ; file is no folder
compare!     ; file                               ; file is a file
compare      ; --output_dir front                 ; front is one of the runs
compare      ; --reference_point 1                ; a reference point needs 2 finite numbers
compare      ; --baseline nobody                  ; nobody
respond!     ; --adapter none --preference 1,0 x  ; none
respond      ; ''                                 ; (unrecognized arguments|{EMPTY})
respond!     ; --adapter adapter --preference 1,0 '' ; prompt: {EMPTY}
chat         ; --preference nice=1                ; unknown objective 'nice'
serve        ; --allow 'nice<=0.5'                ; unknown objective 'nice'
serve        ; --allow 'helpful<=0.3' 'x'         ; unrecognized arguments
serve        ; --preference 1,0 --allow 'helpful<=0.3' ; helpful is 1: this server allows
serve        ; --front none                       ; none.: no such folder
dashboard!   ; front                              ; front holds no evaluations.jsonl
card         ; --license 'MIT or so'              ; 'MIT or so' is no id of a licence
card         ; --front none                       ; none
push         ; --repo it                          ; 'it' is not of the form OWNER/NAME
push         ;                                    ; 'no/such/model' is a folder of this machine
push         ; --adapter none --base_model me/b   ; none holds no adapter
world        ; --output_dir made                  ; made holds a world already
datasets     ; nothing-like-it                    ; nothing-like-it
datasets     ; pairs:1:none.jsonl                 ; none.jsonl
datasets     ; pairs:1:doubled.jsonl              ; doubled.jsonl:1: .*the key 'prompt' stands twice
datasets     ; pairs:1:yes.jsonl                  ; yes.jsonl:1: better_helpful is True. it is 0
datasets     ; prompts:1:half.jsonl               ; half.jsonl:1: prompt has half a surrogate
regression   ; --checkpoints nothing              ; --checkpoints nothing: there are
regression   ; --pairs 3                          ; add --accuracy true
regression   ; --local_dir none                   ; none: no such folder
report       ; --figures none                     ; none holds no figures
seeds_table  ; --runs none                        ; no evaluations
over_seeds   ; --runs none                        ; none.*: no such f
over_seeds   ; --runs front second                ; 2 --runs and 1 --baselines: one of each a seed
benchmarks.run ; --against model                  ; --against model: no checkout of this project
figure_3_reward_distributions  ;                  ; front has no responses.json
figure_5_dpo_fronts            ;                  ; of kind reward, not accuracy
figure_7_scaling_ablation      ; --runs front front ; 2 of --runs have a learnt scaling
figure_4_right_front_evolution ; --runs none      ; none
figure_6_8_responses           ;                  ; front has no responses.json
figure_4_left_ppo_fronts       ; --reference_point 0 ; a reference point needs 2 finite numbers
singular_values                ; --adapter none   ; none holds no adapter
three_objectives               ;                  ; front has 2 objectives
experiments ; panacea_ppo.sh {DRY} --reward_scales nope=3 ; names 'nope'
experiments ; sft.sh {DRY_SFT} --train_datasets pairs:x ; neither a number nor a fraction
experiments ; discrete_policies_dpo.sh dpo {DRY} --grid_step 1e-9 ; 1,000,000,001 vectors
"""


def rows() -> list[tuple[str, list[str], str]]:
    """Program, its whole command line, and the expected line."""
    found = []
    for programs, flags, values, line in RANGES:
        for program in programs.split():
            for flag in flags.split():
                for value in shlex.split(values):
                    words = value.split(" ") if value.strip() else [value]
                    argv = [*shlex.split(GOOD[program]), f"--{flag}", *words]
                    found.append((program, argv, rf"--{flag}\b.*: .*{line}"))
    for row in filter(str.strip, OTHERS.splitlines()):
        program, flags, line = (part.strip() for part in row.split(";"))
        before = "" if program.endswith("!") else GOOD[program]
        found.append((program.rstrip("!"), shlex.split(f"{before} {flags}"), line))
    return found
