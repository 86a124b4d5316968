rule score:
    input:
        ask.extra("score"),
        checkpoints=ask.made("zoo", rules.collect.output),
        samples=ask.made("sample", rules.sample.output.manifest),
        code=ask.code("score"),
    output:
        scores=ensure("results/{experiment}/scores.json", non_empty=True),
        answers=ensure("results/{experiment}/answers.safetensors", non_empty=True),
        metrics=ensure("results/{experiment}/metrics.json", non_empty=True),
    log:
        "logs/{experiment}/score.log",
    benchmark:
        "logs/{experiment}/score.tsv"
    priority: 10
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=ask.memory(2000),
        runtime=ask.runtime(60),
        gpu=0,
    params:
        choices=ask.choices("score"),
    shell:
        "python -m rpg score --experiment {wildcards.experiment:q} --threads {threads} >{log:q} 2>&1"
