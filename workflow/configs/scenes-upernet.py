# A small UperNet on a plain ViT, for the scenes of 32 × 32 pixels.
default_scope = "mmseg"
norm_cfg = dict(type="BN", requires_grad=True)
head = dict(norm_cfg=norm_cfg, num_classes=11, align_corners=False, dropout_ratio=0.0)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.5] * 3,
        std=[64.0] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(32, 32),
    ),
    backbone=dict(
        type="mmdet.PlainViT",
        arguments=dict(
            img_size=32,
            patch_size=4,
            embed_dim=64,
            depth=4,
            num_heads=4,
            mlp_ratio=2,
            window_size=0,
            use_rel_pos=True,
        ),
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(type="Feature2Pyramid", embed_dim=64, rescales=[2, 1, 0.5, 0.25], norm_cfg=norm_cfg),
    decode_head=dict(
        type="UPerHead",
        in_channels=[64] * 4,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2),
        channels=32,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        **head,
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=64,
        in_index=2,
        channels=16,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
        **head,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
dataset = dict(
    # ADE20KDataset is this with the names of its 150 classes, and takes no others.
    type="BaseSegDataset",
    img_suffix=".jpg",
    seg_map_suffix=".png",
    metainfo=dict(classes=("background", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")),
    reduce_zero_label=True,
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"), pipeline=pipeline, **dataset
    ),
)
test_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=pipeline,
        test_mode=True,
        **dataset,
    ),
)
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.003, betas=(0.8, 0.95), weight_decay=0.05, fused=True),
    # The heads start from nothing much; mmseg's own configs give them the same factor.
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
    clip_grad=dict(max_norm=100.0, norm_type=2),
)
param_scheduler = []
