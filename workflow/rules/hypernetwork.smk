rule hypernetwork:
    input:
        tokens=ask.made("tokens", rules.tokens.output.tokens),
        layout=ask.made("tokens", rules.tokens.output.layout),
        stats=ask.made("tokens", rules.tokens.output.stats),
        code=ask.code("hypernetwork"),
    output:
        model=ensure(
            "results/{experiment}/hypernetwork/model.safetensors", non_empty=True
        ),
        config=ensure("results/{experiment}/hypernetwork/config.json", non_empty=True),
        log=ensure("results/{experiment}/hypernetwork/log.csv", non_empty=True),
        seconds=ensure("results/{experiment}/seconds/hypernetwork.json", non_empty=True),
    log:
        "logs/{experiment}/hypernetwork.log",
    benchmark:
        "logs/{experiment}/hypernetwork.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(3000),
        runtime=ask.runtime(240),
        gpu=0,
    params:
        choices=ask.choices("hypernetwork"),
    shell:
        "python -m rpg hypernetwork --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
