"""What a trainer needs beyond `MisalignAugment` and `MidasLoss`; nothing of it is imported for you.

| module | for | extra |
| --- | --- | --- |
| `midas_aug.integrations.module` | any trainer that saves a module's ``state_dict`` | none |
| `midas_aug.integrations.distributed` | partners from the rows of all ranks | none |
| `midas_aug.integrations.loaders` | loaders that resume in the middle of an epoch | none |
| `midas_aug.integrations.lightning` | Lightning | ``lightning`` |
| `midas_aug.integrations.huggingface` | the Hugging Face ``Trainer`` | ``huggingface`` |
| `midas_aug.integrations.keras` | Keras 3 | none to import it |

Accelerate, Ray Train and JAX need no code of ours: see ``docs/trainers.md``.
"""
