rule tune:
    input:
        tokens=ask.made("tokens", rules.tokens.output.tokens),
        layout=ask.made("tokens", rules.tokens.output.layout),
        stats=ask.made("tokens", rules.tokens.output.stats),
        model=ask.made("train", rules.train.output.model),
        config=ask.made("train", rules.train.output.config),
        code=ask.code("tune"),
    output:
        model=ensure("results/{experiment}/tune/model.safetensors", non_empty=True),
        config=ensure("results/{experiment}/tune/config.json", non_empty=True),
        log=ensure("results/{experiment}/tune/log.csv", non_empty=True),
        seconds=ensure("results/{experiment}/seconds/tune.json", non_empty=True),
    log:
        "logs/{experiment}/tune.log",
    benchmark:
        "logs/{experiment}/tune.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(3000),
        runtime=ask.runtime(240),
        gpu=0,
    params:
        choices=ask.choices("tune"),
    shell:
        "python -m rpg tune --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
