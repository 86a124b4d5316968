rule train:
    input:
        tokens=ask.made("tokens", rules.tokens.output.tokens),
        layout=ask.made("tokens", rules.tokens.output.layout),
        stats=ask.made("tokens", rules.tokens.output.stats),
        code=ask.code("train"),
    output:
        model=ensure("results/{experiment}/rpg/model.safetensors", non_empty=True),
        config=ensure("results/{experiment}/rpg/config.json", non_empty=True),
        log=ensure("results/{experiment}/rpg/log.csv", non_empty=True),
        seconds=ensure("results/{experiment}/seconds/train.json", non_empty=True),
    log:
        "logs/{experiment}/train.log",
    benchmark:
        "logs/{experiment}/train.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(3000),
        runtime=ask.runtime(240),
        gpu=0,
    params:
        choices=ask.choices("train"),
    shell:
        "python -m rpg train --experiment {wildcards.experiment:q} --threads {threads}"
        " --processes {resources.gpu} >{log:q} 2>&1"
