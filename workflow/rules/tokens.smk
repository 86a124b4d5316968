rule tokens:
    input:
        checkpoints=ask.made("zoo", rules.collect.output),
        code=ask.code("tokens"),
    output:
        tokens=ensure("results/{experiment}/tokens/tokens.safetensors", non_empty=True),
        layout=ensure("results/{experiment}/tokens/layout.json", non_empty=True),
        stats=ensure("results/{experiment}/tokens/stats.safetensors", non_empty=True),
    log:
        "logs/{experiment}/tokens.log",
    benchmark:
        "logs/{experiment}/tokens.tsv"
    priority: 60
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(2000),
        runtime=ask.runtime(60),
    params:
        choices=ask.choices("tokens"),
    shell:
        "python -m rpg tokens --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
