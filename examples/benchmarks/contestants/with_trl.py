"""TRL 1.16's `GKDTrainer`, on the rows that are given and with KL(teacher || student): `lmbda=0`, `beta=0`."""

from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl.experimental.gkd import GKDConfig, GKDTrainer
from work import Work


def train(work: Work) -> None:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(  # it asks for one, and has nothing to do with it: the rows are ids already
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    trainer = GKDTrainer(
        work.student,
        work.teacher,
        GKDConfig(lmbda=0.0, beta=0.0, bf16=False, gradient_checkpointing=False, **work.trainer_arguments()),
        data_collator=work.collate,
        train_dataset=Dataset.from_list(work.rows),
        processing_class=tokenizer,
    )
    trainer.train()
