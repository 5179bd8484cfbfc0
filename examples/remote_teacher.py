"""The base example, and the teacher is a service elsewhere, which is sent texts and answers logits.

    python examples/remote_teacher.py

So that it runs anywhere, the service is a thread of this script behind an HTTP port; any other takes its place. A
recipe says `teacher: {kind: {name: CallableTeacher, function: my_rules.answer}}`, of a module beside it.
"""

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from multilabel_distilbert import compute_metrics, load, parser, settings, show

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers


def main(arguments=None):
    options = parser(__doc__).parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    address = serve(teacher, tokenizer)
    known = {}  # no text is sent twice

    def service(batch):
        texts = tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            with urllib.request.urlopen(address, json.dumps(new).encode(), timeout=60) as answer:
                known.update(zip(new, json.load(answer), strict=True))
        return [known[text] for text in texts]

    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teachers.CallableTeacher(service),
        losses=[losses.TaskLoss(weight=0.5), losses.SoftTargets(temperature=2.0, weight=0.5)],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    print(f"{len(known)} texts were sent")
    trainer.save_model()
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


def serve(teacher, tokenizer):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with torch.no_grad():
                logits = teacher(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(logits.tolist()).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    main()
