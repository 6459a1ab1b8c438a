#include "tests/unit/model_folder.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/temp_folder.h"
#include "worker/base/buffer.h"

static void write_file(const char *name, const struct buffer *header, const struct buffer *data) {
    struct buffer file = {0};
    for (int i = 0; i < 8; i++)
        buffer_append_byte(&file, (char)((uint64_t)header->size >> 8 * i));
    buffer_append(&file, header->data, header->size);
    buffer_append(&file, data->data, data->size);
    temp_file(name, file.data, file.size);
    buffer_free(&file);
}

void model_folder_tensors(const char *name, const char *header, size_t n_data_bytes) {
    struct buffer text = {0}, data = {0};
    buffer_append_text(&text, header);
    for (size_t i = 0; i < n_data_bytes; i++)
        buffer_append_byte(&data, (char)i);
    write_file(name, &text, &data);
    buffer_free(&text);
    buffer_free(&data);
}

void model_folder_remove(const char *name) {
    remove(temp_path(name));
}

const char model_folder_config[] =
    "{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_head\":1,\"n_embd\":16,\"n_positions\":8,\"vocab_size\":5,"
    "\"eos_token_id\":null}";

struct shape {
    const char *name;
    int rows; /* 0: a vector */
    int columns;
};

static void add_tensor(struct buffer *header, struct buffer *data, const char *prefix,
                       const struct shape *shape, float first, float offset) {
    int n = (shape->rows ? shape->rows : 1) * shape->columns;
    size_t begin = data->size;
    for (int i = 0; i < n; i++) {
        float value = i == 0 ? first : (float)((i * 37 + shape->columns) % 41 - 20) / 64 + offset;
        buffer_append(data, &value, sizeof value);
    }
    buffer_printf(header, "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":[", header->size > 1 ? "," : "", prefix,
                  shape->name);
    if (shape->rows)
        buffer_printf(header, "%d,", shape->rows);
    buffer_printf(header, "%d],\"data_offsets\":[%zu,%zu]}", shape->columns, begin, data->size);
}

static void write_model(const char *name, const struct shape *shapes, size_t n_shapes,
                        const struct model_folder_options *options) {
    struct buffer header = {0}, data = {0};
    buffer_append_text(&header, "{");
    for (size_t i = 0; i < n_shapes; i++) {
        if (options->skip && strcmp(options->skip, shapes[i].name) == 0)
            continue;
        float first =
            options->spoil && strcmp(options->spoil, shapes[i].name) == 0 ? options->extra_value : 0.5f;
        add_tensor(&header, &data, options->prefix, &shapes[i], first, 0);
    }
    if (options->extra)
        add_tensor(&header, &data, options->prefix, &(struct shape){options->extra, 0, 16}, 0.5f, 0);
    if (options->n_head_rows)
        add_tensor(&header, &data, "", &(struct shape){"lm_head.weight", options->n_head_rows, 16}, 0.5f,
                   options->head_offset);
    buffer_append_text(&header, "}");
    write_file(name, &header, &data);
    buffer_free(&header);
    buffer_free(&data);
}

void model_folder_gpt2(const char *name, const struct model_folder_options *options) {
    static const struct shape shapes[] = {
        {"wte.weight", 5, 16},
        {"wpe.weight", 8, 16},
        {"h.0.ln_1.weight", 0, 16},
        {"h.0.ln_1.bias", 0, 16},
        {"h.0.attn.c_attn.weight", 16, 48},
        {"h.0.attn.c_attn.bias", 0, 48},
        {"h.0.attn.c_proj.weight", 16, 16},
        {"h.0.attn.c_proj.bias", 0, 16},
        {"h.0.ln_2.weight", 0, 16},
        {"h.0.ln_2.bias", 0, 16},
        {"h.0.mlp.c_fc.weight", 16, 64},
        {"h.0.mlp.c_fc.bias", 0, 64},
        {"h.0.mlp.c_proj.weight", 64, 16},
        {"h.0.mlp.c_proj.bias", 0, 16},
        {"ln_f.weight", 0, 16},
        {"ln_f.bias", 0, 16},
    };
    write_model(name, shapes, sizeof shapes / sizeof shapes[0], options);
}

const char model_folder_llama_config[] =
    "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"num_attention_heads\":2,"
    "\"head_dim\":6,\"hidden_size\":16,\"intermediate_size\":24,\"max_position_embeddings\":8,"
    "\"vocab_size\":5,\"eos_token_id\":null}";

void model_folder_llama(const char *name, const struct model_folder_options *options) {
    static const struct shape shapes[] = {
        {"embed_tokens.weight", 5, 16},
        {"layers.0.input_layernorm.weight", 0, 16},
        {"layers.0.self_attn.q_proj.weight", 12, 16},
        {"layers.0.self_attn.k_proj.weight", 6, 16},
        {"layers.0.self_attn.v_proj.weight", 6, 16},
        {"layers.0.self_attn.o_proj.weight", 16, 12},
        {"layers.0.post_attention_layernorm.weight", 0, 16},
        {"layers.0.mlp.gate_proj.weight", 24, 16},
        {"layers.0.mlp.up_proj.weight", 24, 16},
        {"layers.0.mlp.down_proj.weight", 16, 24},
        {"norm.weight", 0, 16},
    };
    write_model(name, shapes, sizeof shapes / sizeof shapes[0], options);
}
