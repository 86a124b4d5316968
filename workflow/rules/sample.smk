rule sample:
    input:
        ask.extra("sample"),
        layout=ask.made("tokens", rules.tokens.output.layout),
        stats=ask.made("tokens", rules.tokens.output.stats),
        model=ask.made("train", rules.train.output.model),
        config=ask.made("train", rules.train.output.config),
        code=ask.code("sample"),
    output:
        manifest=ensure("results/{experiment}/samples/manifest.json", non_empty=True),
        seconds=ensure("results/{experiment}/seconds/sample.json", non_empty=True),
    log:
        "logs/{experiment}/sample.log",
    benchmark:
        "logs/{experiment}/sample.tsv"
    priority: 30
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(2000),
        runtime=ask.runtime(60),
        gpu=0,
    params:
        choices=ask.choices("sample"),
    shell:
        "python -m rpg sample --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
